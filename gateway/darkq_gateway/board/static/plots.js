// A figure: its name, its value, and a plot of at most two minutes, which always takes the whole width.

import { node, shape, write } from "./dom.js";

const SAMPLES = 120;
const WIDTH = 240;
const HEIGHT = 40;

export class Figure {
  #label = node("h2");
  #value = node("p", { class: "value" });
  #note = node("p", { class: "note" });
  #area = shape("polygon", { class: "area" });
  #line = shape("polyline", { class: "line" });
  #plot = shape(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    this.#area,
    this.#line,
  );
  #values = [];
  #element;

  constructor(element) {
    this.#element = element;
    element.append(node("div", {}, this.#label, this.#value, this.#note), this.#plot);
  }

  /** Show a value; `text` is its formatted form, `note` the line below it, `tone` its colour if it has one. */
  show(label, value, text, note, tone = "") {
    this.#element.dataset.tone = tone;
    this.#values = [...this.#values, value].slice(-SAMPLES);
    write(this.#label, label);
    write(this.#value, text);
    write(this.#note, note);
    this.#draw(label, text);
  }

  #draw(label, text) {
    const most = Math.max(...this.#values);
    const scale = Math.max(most, 1);
    const values = this.#values.length > 1 ? this.#values : [...this.#values, ...this.#values];
    const points = values.map((value, number) => {
      const x = (number / (values.length - 1)) * WIDTH;
      const y = HEIGHT - 1.5 - (value / scale) * (HEIGHT - 4);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    this.#line.setAttribute("points", points.join(" "));
    this.#area.setAttribute("points", [`0,${HEIGHT}`, ...points, `${WIDTH},${HEIGHT}`].join(" "));
    const said = `${label}: ${text} now, ${Math.round(most)} at most since this page is open, up to two minutes`;
    this.#plot.setAttribute("aria-label", said);
  }
}
