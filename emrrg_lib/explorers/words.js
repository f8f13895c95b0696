const maps = bytes(data.maps), [rows, cols] = data.grid, cells = rows * cols, all = cells * data.views.length;
const set = (values) => {
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  update();
};
const clamp = (value, most) => Math.min(most - 1, Math.max(0, value));
const canvases = data.views.map((view, number) => stage(view, data.names[number], (y, x, down, right) => {
  const at = choice(), here = y === null ? [at.row + down, at.col + right] : [Math.floor(y * rows), Math.floor(x * cols)];
  set({ view: number, row: clamp(here[0], rows), col: clamp(here[1], cols) });
}));
const buttons = data.words.map((word, number) => {
  const button = document.createElement("button");
  [button.type, button.textContent] = ["button", word];
  button.addEventListener("click", () => set({ word: number }));
  document.getElementById("report").append(button);
  return button;
});
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const where = (place) => { // as the still pictures say it
  const [view, row, col] = [Math.floor(place / cells), Math.floor(place % cells / cols), place % cols];
  const height = ["upper", "middle", "lower"][Math.min(2, Math.floor(3 * row / rows))];
  const side = ["left", "centre", "right"][Math.min(2, Math.floor(3 * col / cols))];
  return `the ${height === "middle" && side === "centre" ? side : `${height} ${side}`} of the ${data.names[view]}`;
};
const update = start((at) => {
  const map = (word) => (at.layer * data.heads + at.head) * data.words.length + word;
  const values = maps.subarray(map(at.word) * all, (map(at.word) + 1) * all);
  const patch = at.view * cells + at.row * cols + at.col;
  canvases.forEach((canvas, view) => {
    const context = heat(canvas, values.subarray(view * cells, (view + 1) * cells), data.grid, true);
    if (at.outline && data.outlines[at.outline - 1][view]) {
      context.save();
      context.scale(SCALE, SCALE);
      [context.strokeStyle, context.lineWidth] = ["#39d0ff", 1.2];
      context.stroke(new Path2D(data.outlines[at.outline - 1][view]));
      context.restore();
    }
    if (view === at.view) {
      const [width, height] = [canvas.width / cols, canvas.height / rows];
      twice(context, () => context.strokeRect(at.col * width, at.row * height, width, height));
    }
  });
  legend("0", `${percent(data.peaks[map(at.word)])} of the attention on one patch, the most of this word`);
  const looks = data.words.map((_, word) => maps[map(word) * all + patch] / 255 * data.peaks[map(word)]);
  const most = Math.max(...looks, 1e-9);
  buttons.forEach((button, word) => {
    const share = looks[word] / most;
    button.style.background = `rgb(${255 - 3 * share}, ${255 - 90 * share}, ${255 - 211 * share})`;
    button.title = `${percent(looks[word])} on the framed patch`;
    button.setAttribute("aria-pressed", word === at.word);
  });
  const best = [...looks.keys()].sort((a, b) => looks[b] - looks[a]).slice(0, 3);
  const told = `The word “${data.words[at.word]}” looks most in ${where(values.indexOf(Math.max(...values)))}. The framed ` +
    `patch, row ${at.row + 1}, column ${at.col + 1} of the ${data.names[at.view]}, is looked at most by ` +
    `${best.map((word) => `“${data.words[word]}” ${percent(looks[word])}`).join(", ")}.`;
  canvases.forEach((canvas, view) => canvas.setAttribute("aria-label", `${data.views[view].alt}. ${told}`));
  return told;
});
