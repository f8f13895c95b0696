"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("controls"), pictures = document.getElementById("pictures");
const SCALE = 4; // canvas pixels for one pixel of the X-ray
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const fields = () => [...form.elements].filter((field) => field.name);
const choice = () => Object.fromEntries(fields().map((field) => [field.name, Number(field.value)]));

// A canvas over an X-ray; with `pick` it takes clicks and arrow keys.
const stage = (view, caption, pick) => {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  const text = document.createElement("figcaption");
  [canvas.width, canvas.height] = [view.width * SCALE, view.height * SCALE];
  canvas.style.backgroundImage = `url(${view.source})`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", view.alt);
  text.textContent = caption;
  figure.append(canvas, text);
  pictures.append(figure);
  if (!pick) return canvas;
  canvas.tabIndex = 0;
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    pick((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width, 0, 0);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    pick(null, null, ...step);
  });
  return canvas;
};

// Values 0 to 255 of one view, (rows, cols), over its X-ray.
const heat = (canvas, values, [rows, cols], smooth) => {
  const small = document.createElement("canvas"), context = canvas.getContext("2d");
  [small.width, small.height] = [cols, rows];
  const image = new ImageData(cols, rows);
  values.forEach((value, place) => image.data.set(data.colours[value], 4 * place));
  small.getContext("2d").putImageData(image, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return context;
};

// The range of the colours, with words for its two ends.
const legend = (low, high) => {
  const bar = document.createElement("i"), stops = [0, 51, 102, 153, 204, 255];
  const colour = ([red, green, blue, alpha]) => `rgba(${red}, ${green}, ${blue}, ${alpha / 255})`;
  bar.style.backgroundImage = `linear-gradient(to right, ${stops.map((stop) => colour(data.colours[stop])).join(", ")})`;
  const place = document.getElementById("legend");
  place.replaceChildren(low, bar, high);
  place.hidden = false;
};

const twice = (context, draw) => { // a line seen on dark and on bright ground
  for (const [colour, width] of [["#1f2933", 6], ["#ffffff", 2.5]]) {
    [context.strokeStyle, context.lineWidth] = [colour, width];
    draw();
  }
};

const guarded = (draw) => () => { // a drawing that fails says so
  try {
    draw();
  } catch (error) {
    document.getElementById("told").textContent = `not drawn: ${error}`;
    throw error;
  }
};

const start = (draw) => {
  const update = guarded(() => {
    for (const field of fields().filter((each) => each.type === "range")) {
      const name = JSON.parse(field.dataset.options)[field.value];
      field.nextElementSibling.textContent = name;
      field.setAttribute("aria-valuetext", name);
    }
    document.getElementById("told").textContent = draw(choice());
  });
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  if (!fields().length) form.hidden = true;
  update();
  return update;
};

const explorers = {};

// One stored picture for every state.
explorers.pictures = () => {
  const shown = document.createElement("img");
  shown.className = "card";
  pictures.append(shown);
  start((at) => { // states are in the order of the controls; the last one changes fastest
    const size = (field) => field.options?.length ?? Number(field.max) + 1;
    const number = fields().reduce((sum, field) => sum * size(field) + at[field.name], 0);
    const [picture, told] = data.states[number];
    [shown.src, shown.width, shown.alt] = [data.pictures[picture].source, data.pictures[picture].width, told];
    return told;
  });
};

// A word's attention over the views, and the words that look at a patch.
explorers.words = () => {
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
};

// The path of one scan, the memory of the state, and the effect of a dropped direction.
explorers.scan = () => {
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
};

guarded(explorers[data.kind])();
