// A job's events, one line each; consecutive chunks share a line.

import { node, write } from "./dom.js";
import { count, length } from "./format.js";

export class EventList {
  #container;
  #total;
  #seen = 0;
  #run = null; // the last line if it has chunks: their number, their characters, the element

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
    if (event.type !== "chunk") {
      this.#run = null;
      return void this.#line(event.id, event.type, about(event));
    }
    this.#run ??= { first: event.id, chunks: 0, chars: 0, line: this.#line(event.id, "chunk", "") };
    const run = this.#run;
    run.chunks += event.merged ?? 1;
    run.chars += event.text.length;
    const [id, , note] = run.line.children;
    write(id, run.first === event.id ? event.id : `${run.first} … ${event.id}`);
    write(note, `${count(run.chunks)} ${run.chunks === 1 ? "chunk" : "chunks"}, ${count(run.chars)} characters`);
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
  return parts.filter(Boolean).join(" · ");
}
