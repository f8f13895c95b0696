const memory = bytes(data.memory), maps = bytes(data.maps), cells = data.patches.length;
const path = stage(data.view, "What the state holds, and the path"), effect = stage(data.view, "");
const place = new Map(data.patches.map((token, patch) => [token, patch]));
legend("0", "the largest value of each picture");
start((at) => {
  const order = data.orders[at.direction], length = order.length;
  const from = (at.direction * length + at.step) * length, values = new Uint8Array(cells);
  order.forEach((token, step) => { if (place.has(token)) values[place.get(token)] = memory[from + step]; });
  const context = heat(path, values, data.grid, false), [rows, cols] = data.grid;
  const points = order.slice(0, at.step + 1).filter((token) => place.has(token)).map((token) => {
    const patch = place.get(token);
    return [(patch % cols + 0.5) * path.width / cols, (Math.floor(patch / cols) + 0.5) * path.height / rows];
  });
  twice(context, () => {
    context.beginPath();
    points.forEach((point) => context.lineTo(...point));
    context.stroke();
  });
  if (points.length) {
    context.beginPath();
    context.arc(...points.at(-1), 12, 0, 7);
    context.fillStyle = "#39d0ff";
    context.fill();
    context.stroke();
  }
  heat(effect, maps.subarray(at.drop * cells, (at.drop + 1) * cells), data.grid, false);
  effect.nextElementSibling.textContent = data.effects[at.drop];
  const told = `${data.told[at.direction][at.step]} ${data.effects[at.drop]}.`;
  path.setAttribute("aria-label", told);
  effect.setAttribute("aria-label", data.effects[at.drop]);
  return told;
});
