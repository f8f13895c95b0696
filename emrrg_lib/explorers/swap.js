const shown = document.createElement("img");
shown.className = "card";
pictures.append(shown);
start((at) => { // states stand in the order of the controls, the last one fastest
  const size = (field) => field.options?.length ?? Number(field.max) + 1;
  const number = fields().reduce((sum, field) => sum * size(field) + at[field.name], 0);
  const [picture, told] = data.states[number];
  [shown.src, shown.width, shown.alt] = [data.pictures[picture].source, data.pictures[picture].width, told];
  return told;
});
