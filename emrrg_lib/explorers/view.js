// The parts of every explorer. The JavaScript files of this folder, one after the other, are one ES module.

const SVG = new Set(["svg", "path", "rect", "circle", "line"]), RESTING = "data-lm-suppress-shortcuts";

// A node with attributes; a name that begins with "on" is a listener. Where the focus is, the shortcuts of
// JupyterLab and Notebook must rest: they would take the arrow keys for the cells.
const h = (name, given = {}, ...children) => {
  const node = SVG.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(key, value);
  }
  if (["input", "select", "button"].includes(name)) node.setAttribute(RESTING, "true");
  node.append(...children.flat());
  return node;
};
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const short = (value) => (value ? Number(value.toPrecision(2)).toString() : "0");
const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
// A word of a report in quotes; one written from right to left turns nothing around it.
const quoted = (word) => (/[^\0-\u058f]/.test(word) ? `“\u2068${word}\u2069”` : `“${word}”`);
const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));

// [red, green, blue, alpha] of a share 0 to 1 of the scale: colour and opacity both rise.
const heatOf = (stops) => (share) => {
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(at));
  const mixed = [1, 3, 5].map((start) => {
    const [from, to] = [low, low + 1].map((stop) => parseInt(stops[stop].slice(start, start + 2), 16));
    return Math.round(from + (at - low) * (to - from));
  });
  return [...mixed, Math.round(217 * Math.min(1, Math.max(0, (share - 0.08) / 0.6)))];
};

// Pointer and keys choose one of `count` places of a node, `columns` in a row. Assistive tools see a slider,
// because only a slider gets the arrow keys and says its value in words.
const picker = (node, { label, count, columns = 1, find, hover, set }) => {
  let at = 0;
  const many = () => (typeof count === "function" ? count() : count);
  const across = () => (typeof columns === "function" ? columns() : columns);
  const given = { role: "slider", tabindex: 0, "aria-label": label, "aria-valuemin": 1, [RESTING]: "true" };
  for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
  node.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across(), ArrowDown: across(), Home: -many(), End: many() };
    if (!(event.key in moves)) return;
    event.preventDefault();
    set(clamp(at + moves[event.key], many()));
  });
  const found = (event, then) => {
    const place = find(event);
    if (place !== null && !Number.isNaN(place)) then(place);
  };
  node.addEventListener("pointermove", (event) => event.pointerType === "mouse" && found(event, hover));
  node.addEventListener("pointerleave", () => hover(null));
  node.addEventListener("click", (event) => found(event, set));
  return (value, text) => {
    at = value;
    node.setAttribute("aria-valuemax", many());
    node.setAttribute("aria-valuenow", value + 1);
    node.setAttribute("aria-valuetext", text);
  };
};
const marked = (event) => Number(event.target.closest("[data-place]")?.dataset.place ?? NaN);

// A labelled slider over texts; `set` moves it without an event.
const slider = (label, texts, value, change) => {
  const input = h("input", { type: "range", min: 0, "aria-label": label }), shown = h("b");
  const set = (to, named = texts) => {
    [texts, input.max, input.value] = [named, named.length - 1, to];
    shown.textContent = texts[to];
    input.setAttribute("aria-valuetext", texts[to]);
  };
  set(value);
  input.addEventListener("input", () => {
    set(Number(input.value));
    change(Number(input.value));
  });
  return { node: h("label", {}, h("span", {}, label), input, shown), set };
};

const choose = (label, options, value, change) =>
  h("label", {}, h("span", {}, label), h(
    "select",
    { "aria-label": label, onchange: (event) => change(Number(event.target.value)) },
    options.map((text, number) => h("option", { value: number, selected: number === value }, text)),
  ));

// A map of (rows, cols) places over a picture, sharp at any size; `over` is an svg of 100 × 100.
const stage = (picture, [rows, cols], heat) => {
  const canvas = h("canvas", { width: cols, height: rows, "aria-hidden": "true" }), note = h("figcaption");
  const over = h("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  const box = h("div", { class: "stage", style: `aspect-ratio: ${picture.width} / ${picture.height}` });
  if (picture.source) box.append(h("img", { src: picture.source, alt: picture.alt, draggable: "false" }));
  box.append(canvas, over);
  const find = (event) => {
    const area = box.getBoundingClientRect();
    const row = clamp(Math.floor(((event.clientY - area.top) / area.height) * rows), rows);
    return row * cols + clamp(Math.floor(((event.clientX - area.left) / area.width) * cols), cols);
  };
  const paint = (share, smooth) => {
    const image = new ImageData(cols, rows);
    for (let place = 0; place < rows * cols; place++) image.data.set(heat(share(place)), 4 * place);
    canvas.getContext("2d").putImageData(image, 0, 0);
    canvas.classList.toggle("squares", !smooth);
  };
  const corner = (place) => [((place % cols) * 100) / cols, (Math.floor(place / cols) * 100) / rows];
  const frame = (place, name) => {
    const [x, y] = corner(place);
    return ["under", name].map((kind) => h("rect", { class: kind, x, y, width: 100 / cols, height: 100 / rows }));
  };
  return { figure: h("figure", {}, box, note), box, over, note, find, paint, corner, frame };
};

const twice = (path) => ["under", "line"].map((kind) => h("path", { class: kind, d: path })); // seen on any ground

// The colour scale with words for its ends.
const scaleBar = (stops) => {
  const low = h("span"), high = h("span");
  const ramp = h("i", { style: `background-image: linear-gradient(to right, ${stops.join(", ")})` });
  const node = h("div", { class: "scale" }, low, ramp, high);
  const set = (from, to) => ([low.textContent, high.textContent] = [from, to]);
  return { node, set };
};
const heatStops = (heat) => [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) => {
  const [red, green, blue, alpha] = heat(share);
  return `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
});

// The frame of an explorer: head, controls, body, and a sentence that never makes the page jump.
const frame = (data) => {
  const told = h("p", { class: "told" }), aloud = h("p", { class: "quiet", role: "status", "aria-live": "polite" });
  const controls = h("div", { class: "controls" }), body = h("div", { class: "body" });
  const root = h("div", { class: "emrrg" },
    h("h2", {}, data.title), h("p", { class: "explains" }, data.explains), controls, body, told, aloud);
  let tallest = 0, width = 0;
  const tell = (text, chosen = true) => {
    if (root.clientWidth !== width) [tallest, width] = [0, root.clientWidth];
    told.style.minHeight = `${tallest}px`;
    told.textContent = text;
    tallest = Math.max(tallest, told.offsetHeight);
    told.classList.remove("failed");
    if (chosen) aloud.textContent = text;
  };
  const fail = (text) => {
    tell(text);
    told.classList.add("failed");
  };
  return { root, controls, body, told, tell, fail };
};
