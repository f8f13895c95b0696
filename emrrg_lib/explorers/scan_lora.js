// The explorers of scans and Partial LoRA, and `render`, which anywidget calls.

// The path of one scan, what the state holds, how it responds, and the effect of a dropped direction.
kinds.scan = (data, { controls, body, told: sentence, tell }) => {
  const kept = bytes(data.kept), length = data.orders[0].length, heat = heatOf(data.heat), [, cols] = data.grid;
  const at = { direction: 0, step: Math.floor(length / 3), scale: 0 }, patchOf = new Map(data.patches.map((token, patch) => [token, patch]));
  const path = stage(data.view, data.grid, heat), effect = stage(data.view, data.grid, heat);
  const bars = [scaleBar(heatStops(heat)), scaleBar(heatStops(heat))], chart = h("svg", { viewBox: `0 0 ${length} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const box = h("div", { class: "chart" }, chart), legend = h("p", { class: "legend" });
  const keptAt = (step, source) => kept[(at.direction * length + step) * length + source] / 255;
  const read = (source) => data.read[at.direction][source], order = () => data.orders[at.direction];
  const place = (patch) => (patch === undefined ? "the cls token, which is no patch" : `row ${Math.floor(patch / cols) + 1}, column ${(patch % cols) + 1}`);
  let rows, timer = null; // rows: of each step, what the state holds [in all, new, share of the old that was kept]
  const respond = () => {
    rows = [];
    for (let step = 0, last = 0; step < length; step++) {
      let held = 0;
      for (let source = 0; source < step; source++) held += keptAt(step, source) * read(source);
      rows.push([held + read(step), read(step), last ? held / last : 0]);
      last = held + read(step);
    }
  };
  const told = (step) => {
    const row = rows[step], seen = Math.min(step + 1, cols);
    let recent = 0;
    for (let source = step - seen + 1; source <= step; source++) recent += keptAt(step, source) * read(source);
    return `${data.names[at.direction]}, step ${step + 1} of ${length}: ${place(patchOf.get(order()[step]))}. The state keeps ${percent(row[2])} of the old; the token makes ` +
      `${percent(row[1] / row[0])} of what it holds now, the last ${seen} tokens ${percent(recent / row[0])}. Without this direction the block's output changes by ${percent(data.share[at.direction])}.`;
  };
  const draw = (chosen = true) => {
    const peak = Math.max(...data.read[at.direction], 1e-12), values = new Map();
    order().slice(0, at.step + 1).forEach((token, source) => values.set(patchOf.get(token), at.scale ? (keptAt(at.step, source) * read(source)) / peak : keptAt(at.step, source)));
    path.paint((patch) => values.get(patch) ?? 0, false);
    const points = order().slice(0, at.step + 1).map((token) => patchOf.get(token)).filter((patch) => patch !== undefined)
      .map((patch) => path.corner(patch).map((edge, axis) => edge + 50 / data.grid[1 - axis]));
    const last = points.at(-1);
    path.over.replaceChildren(...twice(`M${points.map((point) => point.join(" ")).join("L")}`), ...(last ? [h("circle", { class: "dot", cx: last[0], cy: last[1], r: 2.2 })] : []));
    path.note.textContent = `Held by the state after step ${at.step + 1}, ${data.names[at.direction]}`;
    bars[0].set("0", at.scale ? `${short(peak)} (size of the part, one scale for all steps)` : "all of the token, as when it was read");
    const change = data.change[at.direction].map((value, patch) => (at.scale ? value : value / Math.max(data.size[patch], 1e-12)));
    const most = at.scale ? Math.max(...data.change.flat(), 1e-12) : Math.max(...change, 1e-12);
    effect.paint((patch) => change[patch] / most, false);
    effect.note.textContent = `Change of the output without “${data.names[at.direction]}”`;
    bars[1].set("0", at.scale ? `${short(most)} (root mean square, one scale for all directions)` : `${percent(most)} of the token's own size`);
    const tall = Math.max(...rows.map((row) => row[1]), 1e-12), high = (step) => 100 * (at.scale ? rows[step][1] / tall : rows[step][1] / rows[step][0]);
    chart.replaceChildren(
      h("rect", { class: "now", x: at.step, y: 0, width: 1, height: 100 }),
      ...rows.map((_, step) => h("rect", { class: "bar", x: step + 0.1, y: 100 - high(step), width: 0.8, height: high(step) })),
      h("path", { class: "response", d: `M${rows.map((row, step) => `${step + 0.5} ${100 - 100 * row[2]}`).slice(1).join("L")}` }));
    legend.textContent = `Step 1 to ${length}, 0 to 100 %. Line: share of the old that is kept. Bars: ${at.scale ? `size of what the token brings, up to ${short(tall)}` : "share of the new token in what is held"}.`;
    walk.set(at.step);
    setStep(at.step, `step ${at.step + 1}`);
    setPatch(patchOf.get(order()[at.step]) ?? 0, `step ${at.step + 1}: ${place(patchOf.get(order()[at.step]))}`);
    tell(told(at.step), chosen);
  };
  const pick = (change, chosen = true) => {
    if (Object.assign(at, change) && "direction" in change) respond();
    draw(chosen);
  };
  const play = h("button", { type: "button", onclick: () => play.turn(timer === null) }, "▶ Play");
  play.turn = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => (at.step < length - 1 ? pick({ step: at.step + 1 }, false) : play.turn(false)), 120) : null;
    play.textContent = on ? "⏸ Pause" : "▶ Play";
    if (on && at.step === length - 1) pick({ step: 0 }, false);
    if (!on) tell(told(at.step));
  };
  const walk = slider("Step", data.orders[0].map((_, step) => `step ${step + 1}`), at.step, (step) => pick({ step }));
  const sizes = [...data.size].sort((a, b) => a - b);
  const middle = `Sizes of the output's tokens: ${short(sizes[sizes.length >> 1])} in the middle, ${short(sizes.at(-1))} at most.`;
  controls.append(
    choose("Direction", data.names, 0, (direction) => pick({ direction })),
    choose("Scale", ["each token by itself", "absolute"], 0, (scale) => pick({ scale })), play, walk.node);
  const stepOf = (patch) => order().findIndex((token) => patchOf.get(token) === patch);
  const ofPatch = (patch) => {
    const source = stepOf(patch), left = source > at.step ? "not read yet" : `${percent(keptAt(at.step, source))} of it is left after step ${at.step + 1}`;
    return `${place(patch)}: read at step ${source + 1}, ${left}. Output of this token: size ${short(data.size[patch])}, without this direction it changes by ${short(data.change[at.direction][patch])}, ${percent(data.change[at.direction][patch] / Math.max(data.size[patch], 1e-12))}.`;
  };
  const hover = (patch) => tell(patch === null ? told(at.step) : ofPatch(patch), false);
  const setPatch = picker(path.box, {
    label: "Patch, goes to the step that reads it", count: data.patches.length, columns: cols, find: path.find, hover, set: (patch) => pick({ step: stepOf(patch) }),
  });
  effect.box.addEventListener("pointermove", (event) => hover(effect.find(event)));
  effect.box.addEventListener("pointerleave", () => hover(null));
  const setStep = picker(box, {
    label: "Response of the state", count: length, hover: (step) => tell(told(step ?? at.step), false), set: (step) => pick({ step }),
    find: (event) => clamp(Math.floor(((event.clientX - box.getBoundingClientRect().left) / box.clientWidth) * length), length),
  });
  body.append(h("div", { class: "sides" },
    h("div", { class: "stages" }, [path, effect].map((view, side) => h("div", {}, view.figure, bars[side].node))),
    h("div", {}, h("h3", {}, "Response of the state"), box, legend, h("p", { class: "legend" }, middle), sentence)));
  pick({ direction: 0 });
  return () => clearInterval(timer);
};

// The rows a target touches, ΔW at a rank, and the change of the loss.
kinds.lora = (data, { controls, body, tell }) => {
  const at = { target: 0, rank: data.ranks.length - 1 }, heat = heatOf(data.heat), bar = scaleBar(heatStops(heat));
  const rows = h("div", { class: "rows", role: "img" }), matrices = h("div", { class: "stages small" }), none = h("p", {}, "No adapter of this target was trained in this run.");
  const losses = h("div", { class: "losses" });
  const ends = data.loss.flatMap((row) => row.change), low = Math.min(-data.matters, ...ends), span = Math.max(data.matters, ...ends) - low;
  const sentence = (target) => {
    const [n, out, width] = target.shape, [from, to] = target.rows, rank = data.ranks[at.rank];
    const trained = target.kept ? `Training moved the matrices by ${percent(target.moved, 1)} of their size; rank ${rank} keeps ${percent(target.kept[at.rank])} of that.` : none.textContent;
    return `Target ${target.name}: rows ${from} to ${to - 1} of ${n} ${n > 1 ? "matrices" : "matrix"} of ${out} × ${width}; rank ${rank} costs ${n} · ${rank} · (${width} + ${to - from}) = ${target.weights[at.rank].toLocaleString("en")} weights. ${trained}`;
  };
  const drawRows = (target) => {
    rows.replaceChildren(...Object.entries(target.blocks).map(([name, [from, to]]) => {
      const touched = from >= target.rows[0] && to <= target.rows[1];
      return h("div", { class: touched ? "touched" : "", style: `flex-grow: ${to - from}` }, h("span", {}, `${name}: rows ${from} to ${to - 1}${touched ? ", touched" : ""}`));
    }));
    rows.setAttribute("aria-label", `Rows of the matrix; touched: ${target.rows[0]} to ${target.rows[1] - 1}`);
  };
  const drawChange = (target) => {
    const [r, c] = target.grid, maps = bytes(target.maps), count = target.matrices.length, cells = r * c;
    const peak = Math.max(...target.peaks), [, , width] = target.shape, high = target.rows[1] - target.rows[0];
    matrices.replaceChildren(...target.matrices.map((name, number) => {
      const view = stage({ width: 4, height: 5 }, target.grid, heat), map = at.rank * count + number;
      const value = (cell) => (maps[map * cells + cell] / 255) * target.peaks[map];
      const said = (cell) => {
        const [row, col] = [Math.floor(cell / c), cell % c];
        return `${name}: rows ${target.rows[0] + Math.floor((row * high) / r)} to ${target.rows[0] + Math.floor(((row + 1) * high) / r) - 1}, columns ${Math.floor((col * width) / c)} to ${Math.floor(((col + 1) * width) / c) - 1}: ΔW of size ${short(value(cell))}.`;
      };
      view.paint((cell) => value(cell) / Math.max(peak, 1e-12), false);
      view.note.textContent = name;
      const show = (cell, chosen) => {
        view.over.replaceChildren(...(cell === null ? [] : view.frame(cell, "line")));
        tell(cell === null ? sentence(target) : said(cell), chosen);
        if (chosen) set(cell, said(cell));
      };
      const set = picker(view.box, { label: `Part of ΔW, ${name}`, count: cells, columns: c, find: view.find, hover: (cell) => show(cell, false), set: (cell) => show(cell, true) });
      set(0, said(0));
      return view.figure;
    }));
    bar.set("0", `${short(peak)}: size of ΔW, one scale for all ranks`);
  };
  const drawLoss = (target) => losses.replaceChildren(...data.loss.map((row) => {
    const x = (value) => ((value - low) / span) * 100, on = [`without ${target.name}`, `rank ${data.ranks[at.rank]}`].includes(row.name);
    const [mean, from, to] = row.change;
    return h("div", { class: on ? "loss on" : "loss" }, h("span", {}, row.name),
      h("svg", { viewBox: "-2 0 104 10", preserveAspectRatio: "none", "aria-hidden": "true" }, h("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 10 }),
        h("line", { class: "reach", x1: x(from), x2: x(to), y1: 5, y2: 5 }), h("line", { class: "mean", x1: x(mean), x2: x(mean), y1: 1, y2: 9 })),
      h("span", {}, `${row.loss.toFixed(5)} nats per token; change ${signed(mean, 5)} (${signed(from, 5)} to ${signed(to, 5)})`));
  }));
  const pick = (change) => {
    const target = data.targets[Object.assign(at, change).target];
    drawRows(target);
    if (target.maps) drawChange(target);
    else matrices.replaceChildren(none);
    bar.node.hidden = !target.maps;
    drawLoss(target);
    tell(sentence(target));
  };
  const ranks = slider("Rank", data.ranks.map((rank) => `rank ${rank}`), at.rank, (rank) => pick({ rank }));
  controls.append(choose("Target", data.targets.map((target) => target.name), 0, (target) => pick({ target })), ranks.node);
  body.append(h("div", { class: "lora" }, rows, h("div", {}, matrices, bar.node)), h("h3", {}, "Loss of the model"), losses, h("p", { class: "verdict" }, data.verdict));
  pick({});
};

const render = ({ model, el }) => {
  const data = model.get("data"), view = frame(data);
  el.append(view.root);
  try {
    return kinds[data.kind](data, view, model);
  } catch (error) {
    view.fail(`not drawn: ${error}`);
    throw error;
  }
};
export default { render };
