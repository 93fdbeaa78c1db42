// A job's events, one line each; consecutive events of a kind that come in pieces share a line.

import { node, write } from "./dom.js";
import { count, dots, length, many } from "./format.js";

const IN_PIECES = ["chunk", "reasoning", "tool_call", "refusal"];

export class EventList {
  #container;
  #total;
  #seen = 0;
  #run = null; // the last line if its event comes in pieces: their number, their characters, the element

  constructor(container, total) {
    this.#container = container;
    this.#total = total;
    container.replaceChildren();
    write(total, "");
  }

  /** Add an event. */
  add(event) {
    this.#seen += 1;
    write(this.#total, count(this.#seen));
    if (!IN_PIECES.includes(event.type)) {
      this.#run = null;
      return void this.#line(event.id, event.type, about(event));
    }
    if (this.#run?.type !== event.type) {
      const line = this.#line(event.id, event.type, "");
      this.#run = { type: event.type, first: event.id, pieces: 0, chars: 0, line };
    }
    const run = this.#run;
    run.pieces += event.merged ?? 1;
    run.chars += (event.text ?? event.arguments ?? "").length;
    const [id, , note] = run.line.children;
    write(id, run.first === event.id ? event.id : `${run.first} … ${event.id}`);
    const kind = event.type === "chunk" ? "chunk" : "piece";
    write(note, `${many(run.pieces, kind)}, ${count(run.chars)} characters`);
  }

  #line(id, type, text) {
    const line = node("li", {}, node("code", {}, id), node("strong", {}, type), node("span", {}, text));
    this.#container.append(line);
    return line;
  }
}

function about(event) {
  const parts = [];
  if (event.at_ms) parts.push(new Date(event.at_ms).toLocaleTimeString());
  if (event.type === "started") parts.push(event.model, event.upstream);
  if (event.type === "retrying") parts.push(event.reason, `again in ${length(event.retry_in_s * 1000)}`);
  if (event.type === "failed") parts.push(event.code, event.message);
  if (event.type === "completed") parts.push(event.finish_reason ?? "stop");
  if (event.usage) parts.push(`${count(event.usage.completion_tokens ?? 0)} tokens`);
  return dots(...parts);
}
