// The four explorers, each (data, its frame, the kernel's model) → nothing. `render` is anywidget's.

const kinds = {};

// A word's attention over the views, and the words that look at a patch.
kinds.words = (data, { controls, body, tell }) => {
  const maps = bytes(data.maps), [rows, cols] = data.grid, cells = rows * cols, all = cells * data.views.length;
  const heat = heatOf(data.heat), bar = scaleBar(heatStops(heat)), at = { ...data.start, head: 0, outline: 0 };
  const stages = data.views.map((view) => stage(view, data.grid, heat)), outlines = Object.values(data.outlines);
  const row = (word) => (at.layer * data.heads.length + at.head) * data.words.length + word;
  const look = (word, patch) => (maps[row(word) * all + patch] / 255) * data.peaks[row(word)];
  const named = (patch) => {
    const place = patch % cells, view = data.names[Math.floor(patch / cells)];
    return `row ${Math.floor(place / cols) + 1}, column ${(place % cols) + 1} of the ${view}`;
  };
  const region = (patch) => { // as the still says it
    const place = patch % cells, view = data.names[Math.floor(patch / cells)];
    const height = ["upper", "middle", "lower"][Math.floor((3 * Math.floor(place / cols)) / rows)];
    const side = ["left", "centre", "right"][Math.floor((3 * (place % cols)) / cols)];
    return `the ${height === "middle" && side === "centre" ? side : `${height} ${side}`} of the ${view}`;
  };
  const draw = (over = {}, chosen = false) => {
    const { word, patch } = { ...at, ...over };
    const strongest = [...Array(all).keys()].reduce((best, place) => (look(word, place) > look(word, best) ? place : best), 0);
    stages.forEach((view, number) => {
      let share = 0;
      for (let place = 0; place < cells; place++) share += look(word, number * cells + place);
      view.paint((place) => maps[row(word) * all + number * cells + place] / 255, true);
      const mask = at.outline ? outlines[at.outline - 1][number] : "";
      const here = Math.floor(patch / cells) === number ? view.frame(patch % cells, "line") : [];
      view.over.replaceChildren(...(mask ? [h("path", { class: "mask", d: mask })] : []), ...here);
      view.note.textContent = `${data.names[number]}: ${percent(share)} of the attention`;
    });
    bar.set("0", `${percent(data.peaks[row(word)], 1)} of the attention on one patch, the most of “${data.words[word]}”`);
    const looks = data.words.map((_, other) => look(other, patch)), most = Math.max(...looks, 1e-9);
    spans.forEach((span, other) => {
      span.style.setProperty("--share", `${Math.round((100 * looks[other]) / most)}`);
      span.classList.toggle("picked", other === word);
    });
    const best = [...looks.keys()].sort((a, b) => looks[b] - looks[a]).slice(0, 3);
    const askers = best.map((other) => `“${data.words[other]}” ${percent(looks[other], 1)}`).join(", ");
    tell(`“${data.words[word]}” looks most in ${region(strongest)}. The framed patch, ${named(patch)}, is looked at most by ${askers}.`, chosen);
    if (!chosen) return;
    setWord(word, data.words[word]);
    setPatch.forEach((set, view) => set(Math.floor(patch / cells) === view ? patch % cells : 0, `${named(view * cells + (patch % cells))}: ${askers}`));
  };
  const pick = (change) => draw({}, Object.assign(at, change) && true);
  const spans = data.words.map((word, place) => h("span", { "data-place": place }, word));
  const report = h("div", { class: "report" }, spans.flatMap((span) => [span, " "]));
  const setWord = picker(report, {
    label: "Word of the report", count: spans.length, find: marked,
    hover: (word) => draw(word === null ? {} : { word }), set: (word) => pick({ word }),
  });
  const setPatch = stages.map((view, number) => picker(view.box, {
    label: `Patch of the X-ray, ${data.names[number]}`, count: cells, columns: cols, find: view.find,
    hover: (place) => draw(place === null ? {} : { patch: number * cells + place }),
    set: (place) => pick({ patch: number * cells + place }),
  }));
  controls.append(
    choose("Layer", data.layers, at.layer, (layer) => pick({ layer })),
    choose("Head", data.heads, 0, (head) => pick({ head })),
    ...(outlines.length ? [choose("Outline", ["nothing", ...Object.keys(data.outlines)], 0, (outline) => pick({ outline }))] : []),
  );
  body.append(h("div", { class: "sides" },
    h("div", {}, h("div", { class: "stages" }, stages.map((view) => view.figure)), bar.node),
    h("div", { class: "card" }, h("h3", {}, "The report"), report)));
  pick({});
};

// The gate of every token and layer, and the report written anew with a gate scaled.
kinds.gate = (data, { controls, body, tell, fail }, host) => {
  const whole = `0:${data.steps}`, answers = { ...data.answers }, old = answers[whole], at = { layer: 0, scale: data.steps, cell: 0 };
  const peak = Math.max(1e-6, ...old.gate.flat().map(Math.abs)), bar = scaleBar(["var(--minus)", "var(--paper)", "var(--plus)"]);
  let answer = old, busy = null, timer;
  const tokens = () => answer.gate[0]?.length ?? 0, key = () => `${at.layer}:${at.scale}`;
  const name = () => `${at.layer ? `layer ${data.layers[at.layer - 1]}` : "all layers"} at ${(at.scale / data.steps).toFixed(2)}`;
  const strip = h("div", { class: "strip" }), before = h("div", { class: "card" }), after = h("div", { class: "card" });
  const bound = h("progress", { "aria-label": "Progress of the new report" }), note = h("span");
  const progress = h("p", { class: "progress" }, bound, note);
  const read = (cell) => {
    const layer = Math.floor(cell / tokens()), token = cell % tokens(), heads = answer.heads[layer].map((head) => head[token]);
    const [text, start, stop] = answer.words.find((word) => token >= word[1] && token < word[2]) ?? ["white space", token, token + 1];
    const part = stop - start > 1 ? `, token ${token - start + 1} of ${stop - start}` : "";
    const most = heads.indexOf(Math.max(...heads));
    return `“${text}”${part}, layer ${data.layers[layer]}: gate ${signed(answer.gate[layer][token], 3)}, where tanh α is ` +
      `${signed(data.warm_up[layer], 2)}. Head ${most} looks at the patches most: ${percent(heads[most])} of its attention (all heads: ${heads.map((head) => percent(head)).join(", ")}).`;
  };
  const colour = (value) => `color-mix(in srgb, var(${value < 0 ? "--minus" : "--plus"}) ${Math.min(100, (100 * Math.abs(value)) / peak).toFixed(0)}%, var(--paper))`;
  const card = (place, title, words) => place.replaceChildren(h("h3", {}, title), h("p", { class: "report" }, words.flatMap((word) => [word, " "])));
  const draw = () => {
    strip.replaceChildren(
      h("span", { class: "word", "aria-hidden": "true" }, h("span", { class: "cells" }, data.layers.map((layer) => h("i", { class: "row" }, `layer ${layer}`))), h("span", {}, " ")),
      ...answer.words.map(([text, start, stop]) => h("span", { class: "word" },
        h("span", { class: "cells", style: `grid-template-columns: repeat(${stop - start}, minmax(1.15em, 1fr))` },
          data.layers.flatMap((_, layer) => answer.gate[layer].slice(start, stop).map((value, token) =>
            h("i", { "data-place": layer * tokens() + start + token, style: `background: ${colour(value)}` })))),
        h("span", {}, text))));
    const gone = old.words.map(([text], word) => (answer.gone[word] ? h("del", {}, text) : text));
    card(before, "As the model wrote it", gone);
    card(after, `Gate of ${name()}`, answer.words.map(([text, , , isNew]) => (isNew ? h("mark", {}, text) : text)));
    after.hidden = !data.writes;
  };
  const frameCell = (cell, chosen) => {
    strip.querySelectorAll(".on").forEach((node) => node.classList.remove("on"));
    strip.querySelector(`[data-place="${cell}"]`)?.classList.add("on");
    tell(read(cell), chosen);
    if (chosen) setCell((at.cell = cell), read(cell));
  };
  const show = () => {
    [answer, progress.className] = [answers[key()], "progress idle"];
    draw();
    at.cell = clamp(at.cell, data.layers.length * tokens());
    setCell(at.cell, read(at.cell));
    const added = answer.words.filter((word) => word[3]).map((word) => word[0]), lost = answer.gone.filter(Boolean).length;
    const said = added.length || lost ? `${added.length} new words, ${lost} gone${added.length ? `; new: ${added.join(" ")}` : ""}` : "the same words as at 1.00";
    tell(data.writes ? `Gate of ${name()}: ${said}.` : read(at.cell));
  };
  const ask = () => {
    if (answers[key()]) return busy || show();
    if (busy) return undefined; // its answer asks for the newest choice
    busy = { number: Date.now() + Math.random(), key: key(), since: performance.now() };
    const waiting = () => {
      const seconds = (performance.now() - busy.since) / 1000;
      note.textContent = `writing the report anew, gate of ${name()} … ${seconds.toFixed(1)} s` + (seconds > 30 ? ": is the kernel busy or stopped?" : "");
    };
    [progress.className, timer] = ["progress", setInterval(waiting, 100)];
    after.querySelector("h3").textContent = `Gate of ${name()}: being written …`;
    waiting();
    host.set("request", { layer: at.layer, scale: at.scale, number: busy.number });
    host.save_changes();
    return undefined;
  };
  const answered = () => {
    const { number, error, ...given } = host.get("answer");
    if (!busy || number !== busy.number) return;
    clearInterval(timer);
    const done = busy.key;
    [busy, progress.className] = [null, "progress idle"];
    if (!error) answers[done] = given;
    if (error && done === key()) {
      after.querySelector("h3").textContent = `Gate of ${name()}: not written`;
      return void fail(`The kernel could not write this report. ${error}`);
    }
    ask();
  };
  const scales = () => (data.live ? [...Array(data.steps + 1).keys()] : Object.keys(answers).map((stored) => stored.split(":").map(Number))
    .filter(([layer]) => layer === at.layer).map(([, scale]) => scale).sort((a, b) => a - b));
  const texts = () => scales().map((scale) => (scale / data.steps).toFixed(2));
  const scaler = slider("Scale of the gate", texts(), scales().length - 1, (place) => {
    at.scale = scales()[place];
    ask();
  });
  const layers = ["all layers", ...data.layers.map((layer) => `layer ${layer}`)];
  if (data.writes) controls.append(choose("Scale the gate of", layers, 0, (layer) => {
    at.layer = layer;
    at.scale = scales().includes(at.scale) ? at.scale : data.steps;
    scaler.set(scales().indexOf(at.scale), texts());
    ask();
  }), scaler.node, progress);
  const setCell = picker(strip, {
    label: "Gate of a word in a layer", count: () => data.layers.length * tokens(), columns: tokens, find: marked,
    hover: (cell) => frameCell(cell ?? at.cell, false), set: (cell) => frameCell(cell, true),
  });
  bar.set(`−${peak.toFixed(2)}`, `+${peak.toFixed(2)} (0 in the middle: closed)`);
  body.append(strip, bar.node, h("div", { class: "pair" }, before, after));
  show();
  host.on("change:answer", answered);
  return () => {
    clearInterval(timer);
    host.off("change:answer", answered);
  };
};

// The path of one scan, what the state holds, how it responds, and the effect of a dropped direction.
kinds.scan = (data, { controls, body, tell }) => {
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
    legend.textContent = `Response of the state, step 1 to ${length}, 0 to 100 %. Line: share of the old that is kept. Bars: ${at.scale ? `size of what the token brings, up to ${short(tall)}` : "share of the new token in what is held"}.`;
    walk.set(at.step);
    setStep(at.step, `step ${at.step + 1}`);
    setPatch(patchOf.get(order()[at.step]) ?? 0, told(at.step));
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
  body.append(h("div", { class: "stages" }, [path, effect].map((view, side) => h("div", {}, view.figure, bars[side].node))), box, legend, h("p", { class: "legend" }, middle));
  pick({ direction: 0 });
  return () => clearInterval(timer);
};

// The rows a target touches, ΔW at a rank, and the change of the loss.
kinds.lora = (data, { controls, body, tell }) => {
  const at = { target: 0, rank: data.ranks.length - 1 }, heat = heatOf(data.heat), bar = scaleBar(heatStops(heat));
  const rows = h("div", { class: "rows", role: "img" }), matrices = h("div", { class: "stages small" }), none = h("p", {}, "No adapter of this target was trained in this run.");
  const losses = h("div", { class: "losses" });
  const ends = data.loss.flatMap((row) => row.change), low = Math.min(0, ...ends), span = Math.max(1e-9, Math.max(0, ...ends) - low);
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
      h("span", {}, `${row.loss.toFixed(4)} nats per token; change ${signed(mean, 4)} (${signed(from, 4)} to ${signed(to, 4)})`));
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
