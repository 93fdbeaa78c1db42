// A figure: its name, its value, and a plot of the last two minutes.

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

  constructor(element) {
    element.append(this.#label, this.#value, this.#note, this.#plot);
  }

  /** Show a value; `text` is its formatted form, `note` the line below it. */
  show(label, value, text, note) {
    this.#values = [...this.#values, value].slice(-SAMPLES);
    write(this.#label, label);
    write(this.#value, text);
    write(this.#note, note);
    this.#draw(label, text);
  }

  #draw(label, text) {
    const most = Math.max(...this.#values);
    const scale = Math.max(most, 1);
    const from = SAMPLES - this.#values.length;
    const points = this.#values.map((value, number) => {
      const x = ((from + number) / (SAMPLES - 1)) * WIDTH;
      const y = HEIGHT - 1.5 - (value / scale) * (HEIGHT - 4);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    const left = ((from / (SAMPLES - 1)) * WIDTH).toFixed(1);
    this.#line.setAttribute("points", points.join(" "));
    this.#area.setAttribute("points", [`${left},${HEIGHT}`, ...points, `${WIDTH},${HEIGHT}`].join(" "));
    const said = `${label}: ${text} now, ${Math.round(most)} at most in the last two minutes`;
    this.#plot.setAttribute("aria-label", said);
  }
}
