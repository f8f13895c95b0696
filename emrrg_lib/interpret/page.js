"use strict";
(() => {
  const form = document.getElementById("controls");
  if (!form) return;
  const cards = document.getElementById("cards");
  const all = [...cards.children];
  const kinds = {
    "": () => true,
    abnormal: (data) => data.abnormal === "1",
    normal: (data) => data.abnormal === "0",
    missed: (data) => Number(data.missed) > 0,
    invented: (data) => Number(data.invented) > 0,
    differ: (data) => data.differ === "1",
  };
  const compare = new Intl.Collator("en", { numeric: true }).compare; // also right for numbers in names
  const update = () => {
    const key = "data-" + form.elements.sort.value;
    const sign = form.elements.way.value === "up" ? 1 : -1;
    const difference = (x, y) => (key === "data-id" ? compare(x, y) : Number(x) - Number(y));
    const words = form.elements.words.value.trim().toLowerCase();
    const label = form.elements.label.value;
    const order = [...all].sort((a, b) => {
      const [x, y] = [a.getAttribute(key), b.getAttribute(key)];
      if (x === null || y === null) return (x === null) - (y === null); // unknown scores go last
      return sign * difference(x, y) || a.dataset.order - b.dataset.order;
    });
    let shown = 0;
    for (const [place, card] of order.entries()) {
      const text = [...card.querySelectorAll(".report")].map((p) => p.textContent).join(" ").toLowerCase();
      const fits = kinds[form.elements.kind.value](card.dataset) && text.includes(words) &&
        (!label || card.dataset.labels.split("|").includes(label));
      card.hidden = !fits;
      shown += fits;
      if (cards.children[place] !== card) cards.insertBefore(card, cards.children[place]); // a moved frame loads again
    }
    form.querySelector("output").textContent = `${shown} of ${all.length} shown`;
  };
  const fold = form.elements.fold;
  fold.addEventListener("click", () => {
    const open = fold.textContent.startsWith("Unfold");
    for (const part of cards.querySelectorAll("details")) part.open = open;
    fold.textContent = open ? "Fold the insides" : "Unfold the insides";
  });
  form.elements.sort.addEventListener("change", () => { // best first for scores
    form.elements.way.value = form.elements.sort.value.startsWith("score") ? "down" : "up";
    update();
  });
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  const twins = (event, on) => {
    const mark = event.target.closest("mark");
    if (!mark) return;
    const group = mark.closest(".texts").querySelectorAll(`mark[data-twin="${mark.dataset.twin}"]`);
    for (const other of group) other.classList.toggle("twin", on);
  };
  cards.addEventListener("mouseover", (event) => twins(event, true));
  cards.addEventListener("mouseout", (event) => twins(event, false));
  cards.addEventListener("toggle", ({ target }) => { // an unfolded card shows its explorers in place
    const link = target.open && target.querySelector("a.explorer");
    if (!link || target.querySelector("iframe")) return;
    link.before(Object.assign(document.createElement("iframe"), { src: link.href, title: link.textContent }));
  }, true);
  addEventListener("message", ({ source, data }) => { // the page of explorers tells its height
    for (const frame of cards.querySelectorAll("iframe"))
      if (frame.contentWindow === source) frame.style.height = `${Number(data)}px`;
  });
  form.hidden = false;
  update();
})();
