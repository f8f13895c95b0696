// The explorers of words and gates. A kind is (data, its frame, the kernel's model) → perhaps what ends it.

const kinds = {};

// A word's attention over the views, and the words that look at a patch.
kinds.words = (data, { controls, body, told, tell }) => {
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
    const map = maps.subarray(row(word) * all, (row(word) + 1) * all), strongest = map.indexOf(Math.max(...map));
    stages.forEach((view, number) => {
      const own = map.subarray(number * cells, (number + 1) * cells);
      const share = (own.reduce((sum, value) => sum + value, 0) / 255) * data.peaks[row(word)];
      view.paint((place) => own[place] / 255, true);
      const mask = at.outline ? outlines[at.outline - 1][number] : "";
      const here = Math.floor(patch / cells) === number ? view.frame(patch % cells, "line") : [];
      view.over.replaceChildren(...(mask ? [h("path", { class: "mask", d: mask })] : []), ...here);
      view.note.textContent = `${data.names[number]}: ${percent(share)} of the attention`;
    });
    const peak = percent(data.peaks[row(word)], 1);
    bar.set("0", `${peak} of the attention on one patch, the most of ${quoted(data.words[word])}`);
    const looks = data.words.map((_, other) => look(other, patch)), most = Math.max(...looks, 1e-9);
    spans.forEach((span, other) => {
      span.style.setProperty("--share", `${Math.round((100 * looks[other]) / most)}`);
      span.classList.toggle("picked", other === word);
    });
    const best = [...looks.keys()].sort((a, b) => looks[b] - looks[a]).slice(0, 3);
    const askers = best.map((other) => `${quoted(data.words[other])} ${percent(looks[other], 1)}`).join(", ");
    const told = `${quoted(data.words[word])} looks most in ${region(strongest)}. `;
    tell(`${told}The framed patch, ${named(patch)}, is looked at most by ${askers}.`, chosen);
    if (!chosen) return;
    setWord(word, data.words[word]);
    setPatch.forEach((set, view) => {
      const here = Math.floor(patch / cells) === view ? patch % cells : 0;
      set(here, named(view * cells + here));
    });
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
  );
  const choices = ["nothing", ...Object.keys(data.outlines)];
  if (outlines.length) controls.append(choose("Outline", choices, 0, (outline) => pick({ outline })));
  body.append(h("div", { class: "sides" },
    h("div", {}, h("div", { class: "stages" }, stages.map((view) => view.figure)), bar.node),
    h("div", {}, h("div", { class: "card" }, h("h3", {}, "The report"), report), told)));
  pick({});
};

// The gate of every token and layer, and the report written anew with a gate scaled.
kinds.gate = (data, { controls, body, tell, fail }, host) => {
  const answers = { ...data.answers }, old = answers[`0:${data.steps}`], at = { layer: 0, scale: data.steps, cell: 0 };
  const peak = Math.max(1e-6, ...old.gate.flat().map(Math.abs));
  const bar = scaleBar(["var(--minus)", "var(--paper)", "var(--plus)"]);
  let answer = old, busy = null, timer;
  const tokens = () => answer.gate[0]?.length ?? 0, key = () => `${at.layer}:${at.scale}`;
  const layers = ["all layers", ...data.layers.map((layer) => `layer ${layer}`)];
  const name = () => `${layers[at.layer]} at ${(at.scale / data.steps).toFixed(2)}`;
  const [strip, before, after] = ["strip", "card", "card"].map((kind) => h("div", { class: kind }));
  const bound = h("progress", { "aria-label": "Progress of the new report" }), note = h("span");
  const progress = h("p", { class: "writing" }, bound, note);
  const read = (cell) => {
    if (!tokens()) return "The report is empty.";
    const layer = Math.floor(cell / tokens()), token = cell % tokens();
    const heads = answer.heads[layer].map((head) => head[token]), most = heads.indexOf(Math.max(...heads));
    const found = answer.words.find((word) => token >= word[1] && token < word[2]);
    const [text, start, stop] = found ?? ["white space", token, token + 1];
    const part = stop - start > 1 ? `, token ${token - start + 1} of ${stop - start}` : "";
    const gate = `gate ${signed(answer.gate[layer][token], 3)}, where tanh α is ${signed(data.warm_up[layer], 2)}`;
    const shares = `${percent(heads[most])} of its attention (all heads: ${heads.map((head) => percent(head)).join(", ")})`;
    return `${quoted(text)}${part}, ${layers[layer + 1]}: ${gate}. Head ${most} looks at the patches most: ${shares}.`;
  };
  const colour = (value) => {
    const share = Math.min(100, (100 * Math.abs(value)) / peak).toFixed(0);
    return `background: color-mix(in srgb, var(${value < 0 ? "--minus" : "--plus"}) ${share}%, var(--paper))`;
  };
  const cellsOf = (start, stop) => data.layers.flatMap((_, layer) =>
    answer.gate[layer].slice(start, stop).map((value, token) =>
      h("i", { "data-place": layer * tokens() + start + token, style: colour(value) })));
  const wordOf = ([text, start, stop]) => {
    const style = `grid-template-columns: repeat(${stop - start}, minmax(1.15em, 1fr))`;
    return h("span", { class: "word" }, h("span", { class: "cells", style }, cellsOf(start, stop)), h("span", {}, text));
  };
  const card = (place, title, words) => {
    place.replaceChildren(h("h3", {}, title), h("p", { class: "report" }, words.flatMap((word) => [word, " "])));
  };
  const draw = () => {
    const rows = h("span", { class: "cells" }, layers.slice(1).map((layer) => h("i", { class: "row" }, layer)));
    const head = h("span", { class: "word", "aria-hidden": "true" }, rows, h("span", {}, " "));
    strip.replaceChildren(head, ...answer.words.map(wordOf));
    const gone = old.words.map(([text], word) => h(answer.gone[word] ? "del" : "bdi", {}, text));
    card(before, "As the model wrote it", gone);
    card(after, `Gate of ${name()}`, answer.words.map(([text, , , isNew]) => h(isNew ? "mark" : "bdi", {}, text)));
    after.hidden = !data.writes;
  };
  const frameCell = (cell, chosen) => {
    strip.querySelectorAll(".on").forEach((node) => node.classList.remove("on"));
    strip.querySelector(`[data-place="${cell}"]`)?.classList.add("on");
    tell(read(cell), chosen);
    if (chosen) setCell((at.cell = cell), read(cell));
  };
  const show = () => {
    [answer, progress.className] = [answers[key()], "writing idle"];
    draw();
    at.cell = clamp(at.cell, data.layers.length * tokens());
    setCell(at.cell, read(at.cell));
    const added = answer.words.filter((word) => word[3]).map((word) => word[0]);
    const lost = answer.gone.filter(Boolean).length, list = added.length ? `; new: ${added.join(" ")}` : "";
    const said = added.length || lost ? `${added.length} new words, ${lost} gone${list}` : "the same words as at 1.00";
    tell(data.writes ? `Gate of ${name()}: ${said}.` : read(at.cell));
  };
  const ask = () => {
    if (answers[key()]) return busy || show();
    if (busy) return undefined; // its answer asks for the newest choice
    busy = { number: Date.now() + Math.random(), key: key(), since: performance.now() };
    const waiting = () => {
      const seconds = (performance.now() - busy.since) / 1000;
      const late = seconds > 30 ? ": the kernel is busy, or it was started anew and this cell must run again" : "";
      note.textContent = `writing the report anew, gate of ${name()} … ${seconds.toFixed(1)} s${late}`;
    };
    [progress.className, timer] = ["writing", setInterval(waiting, 100)];
    after.querySelector("h3").textContent = `Gate of ${name()}: being written …`;
    waiting();
    tell(`The report is being written anew, gate of ${name()} …`);
    host.set("request", { layer: at.layer, scale: at.scale, number: busy.number });
    host.save_changes();
    return undefined;
  };
  const answered = () => {
    const { number, error, ...given } = host.get("answer");
    if (!busy || number !== busy.number) return;
    clearInterval(timer);
    const done = busy.key;
    [busy, progress.className] = [null, "writing idle"];
    if (!error) answers[done] = given;
    if (error && done === key()) {
      after.querySelector("h3").textContent = `Gate of ${name()}: not written`;
      return void fail(`The kernel could not write this report. ${error}`);
    }
    ask();
  };
  const scales = () => [...Array(data.steps + 1).keys()].filter((scale) => data.live || `${at.layer}:${scale}` in answers);
  const texts = () => scales().map((scale) => (scale / data.steps).toFixed(2));
  const scaler = slider("Scale of the gate", texts(), scales().length - 1, (place) => {
    at.scale = scales()[place];
    ask();
  });
  if (data.writes) controls.append(choose("Scale the gate of", layers, 0, (layer) => {
    at.layer = layer;
    at.scale = scales().includes(at.scale) ? at.scale : data.steps;
    scaler.set(scales().indexOf(at.scale), texts());
    ask();
  }), scaler.node);
  const setCell = picker(strip, {
    label: "Gate of a word in a layer", count: () => data.layers.length * tokens(), columns: tokens,
    find: marked, hover: (cell) => frameCell(cell ?? at.cell, false), set: (cell) => frameCell(cell, true),
  });
  bar.set(`−${peak.toFixed(2)}`, `+${peak.toFixed(2)} (0 in the middle: closed)`);
  body.append(strip, h("div", { class: "controls" }, bar.node, progress), h("div", { class: "pair" }, before, after));
  show();
  host.on("change:answer", answered);
  return () => {
    clearInterval(timer);
    host.off("change:answer", answered);
  };
};

