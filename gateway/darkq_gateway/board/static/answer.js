// The text of an attempt: rendered as Markdown, or raw. While it grows, only its last block is made anew.

import { node, write } from "./dom.js";
import { parse } from "./markdown.js";

const MAX_RENDERED_CHARS = 400_000; // a longer text is shown raw: it would take seconds

export class Answer {
  #box;
  #rendered = node("div", { class: "markdown" });
  #raw = node("pre", { class: "raw" });
  #text = "";
  #drawn = 0; // the characters in blocks that cannot change any more
  #rawChars = 0;
  #tail = []; // the nodes after them
  #frame = 0;
  #costMs = 0;
  #isLive = true;
  #drew;

  /** `drew` is called after each change of the page. */
  constructor(box, drew) {
    this.#box = box;
    this.#drew = drew;
    this.#raw.hidden = true;
    box.append(this.#rendered, this.#raw);
  }

  get text() {
    return this.#text;
  }

  get isRaw() {
    return !this.#raw.hidden;
  }

  add(text) {
    this.#text += text;
    this.#frame ||= setTimeout(() => this.#draw(), Math.min(500, 16 + 3 * this.#costMs));
  }

  /** Show the whole text: no more of it comes. `isValid` is false for the text of a lost attempt. */
  finish(isValid) {
    this.#isLive = false;
    if (!isValid) return this.#strike();
    this.#drawn = 0; // what looked like the beginning of a block may have been another
    this.#tail = [];
    this.#rendered.replaceChildren();
    this.#draw();
  }

  showRaw(isRaw) {
    this.#raw.hidden = !isRaw;
    this.#rendered.hidden = isRaw;
    this.#draw();
  }

  #strike() {
    clearTimeout(this.#frame);
    this.#raw.remove();
    this.#rendered.replaceChildren(node("del", {}, this.#text));
  }

  #draw() {
    clearTimeout(this.#frame);
    this.#frame = 0;
    if (this.#text.length > MAX_RENDERED_CHARS) this.#raw.hidden = !(this.#rendered.hidden = true);
    const startMs = performance.now();
    if (this.isRaw) this.#drawRaw();
    else this.#render();
    this.#costMs = performance.now() - startMs;
    this.#box.hidden = this.#text.length === 0 && !this.#isLive;
    this.#drew();
  }

  #drawRaw() {
    if (this.#rawChars > this.#text.length) write(this.#raw, "");
    this.#raw.append(this.#text.slice(this.#rawChars));
    this.#rawChars = this.#text.length;
  }

  #render() {
    const lines = this.#text.slice(this.#drawn).split("\n");
    const blocks = parse(lines, this.#isLive);
    for (const old of this.#tail) old.remove();
    const made = blocks.map((block) => block.make());
    this.#rendered.append(...made);
    this.#tail = made.slice(-1);
    const last = blocks.at(-1);
    if (last) this.#drawn += lines.slice(0, last.start).reduce((chars, line) => chars + line.length + 1, 0);
  }
}
