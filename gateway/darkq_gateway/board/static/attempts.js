// The attempts of a job. Each has a text of its own: a new attempt invalidates the earlier text, which
// is struck out and never joined to the new one.

import { hush, speakText } from "./announcer.js";
import { mark, node, write } from "./dom.js";

export class Attempts {
  #container;
  #latest = null;

  constructor(container) {
    this.#container = container;
    container.replaceChildren();
  }

  /** Begin an attempt. */
  begin({ attempt, model, upstream }) {
    if (this.#latest && !this.#latest.over) this.lose("superseded");
    const pill = node("span", { class: "pill" });
    const note = node("p", { class: "note" }, [model, upstream].filter(Boolean).join(" · "));
    const text = document.createTextNode("");
    const box = node("div", { class: "text", tabindex: "0", role: "region" }, text);
    box.setAttribute("aria-label", `Text of attempt ${attempt}`);
    box.setAttribute("aria-busy", "true");
    const head = node("div", { class: "head" }, node("h3", {}, `Attempt ${attempt}`), pill);
    const section = node("section", { class: "attempt" }, head, note, box);
    this.#container.append(section);
    this.#latest = { pill, note, text, box, section, coming: "", frame: 0, over: false };
    mark(pill, "running");
    hush();
  }

  /** Add text to the latest attempt; it is drawn in the next frame. */
  add(text) {
    const latest = this.#latest;
    if (!latest) return;
    latest.coming += text;
    latest.frame ||= requestAnimationFrame(() => draw(latest));
    speakText(text);
  }

  /** Mark the latest attempt as lost, and its text as invalid. */
  lose(reason) {
    this.#finish("lost", reason);
    this.#strike();
  }

  /** End the latest attempt; a failed one leaves no answer. */
  end(state, note) {
    this.#finish(state, note);
    if (state === "failed") this.#strike();
  }

  /** Show an answer whose events have been deleted. */
  only(text) {
    this.begin({ attempt: "" });
    write(this.#latest.section.querySelector("h3"), "Answer");
    this.#latest.box.setAttribute("aria-label", "Answer");
    this.add(text);
    this.#finish("completed", "");
  }

  #strike() {
    const latest = this.#latest;
    if (!latest) return;
    const struck = node("del");
    struck.append(latest.text);
    latest.box.append(struck);
    latest.section.classList.add("void");
    hush();
  }

  #finish(state, note) {
    const latest = this.#latest;
    if (!latest) return;
    draw(latest);
    latest.over = true;
    latest.box.removeAttribute("aria-busy");
    latest.box.hidden = latest.text.length === 0;
    mark(latest.pill, state);
    if (note) write(latest.note, [latest.note.textContent, note].filter(Boolean).join(" · "));
  }
}

function draw(attempt) {
  cancelAnimationFrame(attempt.frame);
  attempt.frame = 0;
  if (!attempt.coming) return;
  const { box } = attempt;
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  attempt.text.appendData(attempt.coming);
  attempt.coming = "";
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}
