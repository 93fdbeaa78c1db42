// What an attempt has beside its text: reasoning, tool calls, a refusal, sources.

import { codeBlock } from "./code.js";
import { node, write } from "./dom.js";
import { count } from "./format.js";
import { anchor } from "./inline.js";

const MAX_SOURCES = 50;

export class Extras {
  #before; // above the text
  #after; // below it
  #reasoning = null;
  #calls = new Map();
  #refusal = null;
  #sources = null;

  constructor(before, after) {
    this.#before = before;
    this.#after = after;
  }

  /** Add a piece of the reasoning, which is folded. */
  reason(text) {
    if (!this.#reasoning) {
      const size = node("span", { class: "count" });
      const body = node("div", { class: "thoughts" }, "");
      const summary = node("summary", {}, "Reasoning ", size);
      this.#before.append(node("details", { class: "reasoning" }, summary, body));
      this.#reasoning = { size, body: body.firstChild };
    }
    this.#reasoning.body.appendData(text);
    write(this.#reasoning.size, `${count(this.#reasoning.body.length)} characters`);
  }

  /** Add a piece of a tool call: the first one of an index has its name, all have arguments. */
  call({ index, name, call_id, arguments: piece }) {
    let call = this.#calls.get(index);
    if (!call) {
      const title = node("strong");
      const id = node("code", { class: "count" });
      const head = node("div", { class: "head" }, node("span", { class: "pill" }, "tool call"), title, id);
      const body = node("div");
      this.#after.append(node("section", { class: "tool", "aria-label": "Tool call" }, head, body));
      call = { title, id, body, text: "" };
      this.#calls.set(index, call);
    }
    if (name) write(call.title, name);
    if (call_id) write(call.id, call_id);
    call.text += piece ?? "";
    call.body.replaceChildren(codeBlock(pretty(call.text), "arguments"));
  }

  /** Add a piece of a refusal. */
  refuse(text) {
    if (!this.#refusal) {
      this.#refusal = node("p", {}, "");
      this.#after.append(node("div", { class: "refusal" }, node("h4", {}, "The model refused"), this.#refusal));
    }
    this.#refusal.firstChild.appendData(text);
  }

  /** Add the sources that annotations name. */
  annotate(annotations) {
    for (const each of annotations) {
      const { url, title } = each.url_citation ?? each;
      if (!url || (this.#sources?.childElementCount ?? 0) >= MAX_SOURCES) continue;
      if (!this.#sources) {
        this.#sources = node("ol", { class: "sources" });
        this.#after.append(node("div", {}, node("h4", {}, "Sources"), this.#sources));
      }
      this.#sources.append(node("li", {}, anchor(url, [title || url])));
    }
  }
}

/** Format JSON if it is whole, else return the text as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
