// The attempts of a job. Each has a text of its own: a new attempt invalidates the earlier text, which
// is struck out and never joined to the new one.

import { hush, speakText } from "./announcer.js";
import { Answer } from "./answer.js";
import { copyButton } from "./code.js";
import { button, mark, node, write } from "./dom.js";
import { Extras } from "./extras.js";
import { dots } from "./format.js";

/** One attempt on the page. */
class Attempt {
  isOver = false;
  #number;
  #pill = node("span", { class: "pill" });
  #note = node("p", { class: "note" });
  #title = node("h3");
  #box = node("div", { class: "text", tabindex: "0", role: "region", "aria-busy": "true" });
  #tools = node("div", { class: "tools" });

  constructor({ attempt, model, upstream }, drew) {
    const [before, after] = [node("div"), node("div", { class: "after" })];
    const head = node("div", { class: "head" }, this.#title, this.#pill, this.#note, this.#tools);
    this.section = node("section", { class: "attempt" }, head, before, this.#box, after);
    this.answer = new Answer(this.#box, drew);
    this.extras = new Extras(before, after);
    this.#number = attempt;
    this.#name(attempt > 1 ? `Attempt ${attempt}` : "Answer");
    write(this.#note, dots(model, upstream));
    const attributes = { class: "quiet small raw-button", "aria-pressed": "false" };
    const raw = button("Raw", (pressed) => this.#switchRaw(pressed), attributes);
    this.#tools.append(raw, copyButton(() => this.answer.text));
    mark(this.#pill, "running");
  }

  #name(title) {
    write(this.#title, title);
    this.#box.setAttribute("aria-label", `Text of ${title.toLowerCase()}`);
  }

  finish(state, note, isValid) {
    this.isOver = true;
    this.#box.removeAttribute("aria-busy");
    this.answer.finish(isValid);
    this.#tools.hidden = !isValid || !this.answer.text;
    this.#box.hidden = !this.answer.text;
    this.section.classList.toggle("void", !isValid);
    if (!isValid) this.#name(`Attempt ${this.#number}`);
    mark(this.#pill, state);
    if (note) write(this.#note, dots(this.#note.textContent, note));
  }

  #switchRaw(pressed) {
    this.answer.showRaw(!this.answer.isRaw);
    pressed.setAttribute("aria-pressed", String(this.answer.isRaw));
  }
}

export class Attempts {
  #container;
  #drew;
  #latest = null;

  /** `drew` is called after each change of the page. */
  constructor(container, drew) {
    this.#container = container;
    this.#drew = drew;
    container.replaceChildren();
  }

  /** Begin an attempt. */
  begin(started) {
    if (this.#latest && !this.#latest.isOver) this.lose("superseded");
    this.#latest = new Attempt(started, this.#drew);
    this.#container.append(this.#latest.section);
    hush();
  }

  /** Add an event of the latest attempt: text, or what it has beside it. */
  add(event) {
    const latest = this.#latest;
    if (!latest) return;
    if (event.type === "reasoning") latest.extras.reason(event.text);
    if (event.type === "tool_call") latest.extras.call(event);
    if (event.type === "refusal") latest.extras.refuse(event.text);
    if (event.annotations) latest.extras.annotate(event.annotations);
    if (event.type !== "chunk") return void this.#drew();
    latest.answer.add(event.text);
    speakText(event.text);
  }

  /** Mark the latest attempt as lost, and its text as invalid. */
  lose(reason) {
    this.end("lost", reason);
  }

  /** End the latest attempt; a lost or failed one leaves no answer. */
  end(state, note) {
    const isValid = state === "completed" || state === "cancelled";
    this.#latest?.finish(state, note, isValid);
    if (!isValid) hush();
  }

  /** Show an answer whose events have been deleted. */
  only(text) {
    this.begin({});
    this.add({ type: "chunk", text });
    this.end("completed", "");
  }
}
