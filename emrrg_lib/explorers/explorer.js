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

// What the colours mean: their range, beside the words for its ends.
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

const start = (draw) => {
  const update = () => {
    for (const field of fields().filter((each) => each.type === "range")) {
      const name = JSON.parse(field.dataset.options)[field.value];
      field.nextElementSibling.textContent = name;
      field.setAttribute("aria-valuetext", name);
    }
    document.getElementById("told").textContent = draw(choice());
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  if (!fields().length) form.hidden = true;
  update();
  return update;
};
