// The open job: its prompt, why it waits or has failed, its attempts from the beginning and live, its buttons.

import { say } from "./announcer.js";
import { ask, get, post, reason } from "./api.js";
import { Attempts } from "./attempts.js";
import { follow } from "./darkq.js";
import { byId, complain, mark, node, write } from "./dom.js";
import { EventList } from "./event_list.js";
import { age, capital, count, ended, first, length, pace } from "./format.js";
import { showPrompt } from "./prompt.js";

const problem = byId("job-problem");
const body = byId("job-body");
const NEAR_END_PX = 60;

/** A job while it is open; `close` stops reading it. */
export class OpenJob {
  #aborter = new AbortController();
  #status = { state: "queued", chunks: 0, first_chunk_ms: 0 };
  #lastId = "";
  #isAtEnd = false;
  #attempts = new Attempts(byId("attempts"), () => this.#follow());
  #events = new EventList(byId("events"), byId("events-count"));
  #unknown = false;

  constructor(id) {
    this.id = id;
    write(byId("job-id"), id);
    complain(problem, null);
    byId("job-prompt").hidden = true;
    byId("job-prompt").replaceChildren();
    body.onscroll = () => (this.#isAtEnd = body.scrollHeight - body.scrollTop - body.clientHeight < NEAR_END_PX);
    body.scrollTop = 0;
    this.#show();
    this.#open();
  }

  get title() {
    return this.#unknown ? "" : `${this.#status.state}${this.#status.prompt ? `: ${this.#status.prompt.slice(0, 60)}` : ""}`;
  }

  close() {
    this.#aborter.abort();
    body.onscroll = null;
  }

  /** Update the job from a snapshot, except its end, which the event log reports first. */
  update(row, nowMs) {
    if (this.#unknown) return;
    const { chunks, first_chunk_ms } = this.#status;
    if (ended(this.#status.state)) this.#status = { ...this.#status, prompt: row.prompt || row.answer, why: row.why ?? this.#status.why };
    else this.#status = { ...this.#status, why: undefined, ...row, chunks, first_chunk_ms };
    this.#show(nowMs);
  }

  cancel() {
    this.#do("cancel");
  }

  async retry() {
    if (await this.#do("retry")) this.#read();
  }

  async #do(what) {
    try {
      this.#take(await post(`/jobs/${this.id}/${what}`));
      complain(problem, null);
      return true;
    } catch (error) {
      complain(problem, `${capital(what)}: ${reason(error)}.`);
      return false;
    }
  }

  /** Read the state first: a job that has ended is shown from its beginning, a running one is followed. */
  async #open() {
    const { signal } = this.#aborter;
    try {
      await this.#look();
      this.#isAtEnd = !ended(this.#status.state);
      showPrompt(byId("job-prompt"), this.id, signal).catch(() => {});
    } catch (error) {
      if (signal.aborted) return;
      if (error.code === "job_not_found") return this.#miss();
      complain(problem, `${capital(reason(error))}.`);
    }
    if (!signal.aborted) await this.#read();
  }

  async #look() {
    this.#take(await get(`/jobs/${this.id}`));
  }

  /** Say that there is no such job. */
  #miss() {
    this.#unknown = true;
    this.#show();
    complain(problem, "No such job: it has expired, or it belongs to another tenant, or its id is wrong.");
  }

  #take(status) {
    if (this.#aborter.signal.aborted) return;
    const { chunks, first_chunk_ms, prompt } = this.#status; // only the status of a finished job has the first two
    this.#status = { chunks, first_chunk_ms, prompt, ...status };
    this.#show();
  }

  async #read() {
    const { signal } = this.#aborter;
    const onEvent = (event) => !signal.aborted && this.#see(event);
    try {
      const after = this.#lastId;
      this.#lastId = await follow(`/jobs/${this.id}/events`, { onEvent, signal, after, fetch: ask });
      if (!signal.aborted) await this.#look();
    } catch (error) {
      if (!signal.aborted) await this.#readResult(error);
    }
  }

  /** Show the result of a job whose events have been deleted. */
  async #readResult(error) {
    try {
      const { text } = await get(`/jobs/${this.id}/result`);
      this.#attempts = new Attempts(byId("attempts"), () => this.#follow());
      this.#attempts.only(text);
    } catch {
      complain(problem, `${capital(reason(error))}.`);
    }
  }

  /** Show an event; return whether it is the last one. */
  #see(event) {
    this.#events.add(event);
    switch (event.type) {
      case "queued":
        this.#turn("queued", { queued_ms: event.at_ms });
        break;
      case "started":
        this.#attempts.begin(event);
        this.#turn("running", { attempt: event.attempt, chunks: 0, first_chunk_ms: 0, why: undefined });
        break;
      case "chunk":
        this.#status.chunks += event.merged ?? 1;
        this.#status.first_chunk_ms ||= event.at_ms;
        this.#attempts.add(event);
        break;
      case "reasoning":
      case "tool_call":
      case "refusal":
        this.#attempts.add(event);
        break;
      case "retrying":
        this.#attempts.lose(`${event.reason}, again in ${length(event.retry_in_s * 1000)}`);
        this.#turn("deferred");
        break;
      case "completed":
        this.#attempts.end("completed", event.finish_reason === "length" ? "cut off at the limit of tokens" : "");
        break;
      case "failed":
        this.#attempts.end("failed", event.code);
        this.#status.why = { code: event.code, message: `${event.code}: ${event.message}` };
        break;
      case "cancelled":
        this.#attempts.end("cancelled", "incomplete");
        break;
    }
    if (!ended(event.type)) return false;
    this.#turn(event.type);
    return true;
  }

  /** Stay at the end while text comes, if the reader is there. */
  #follow() {
    if (this.#isAtEnd && !this.#aborter.signal.aborted) body.scrollTop = body.scrollHeight;
  }

  #turn(state, news = {}) {
    if (state !== this.#status.state) say(`Job ${state}`);
    this.#status = { ...this.#status, ...news, state };
    this.#show();
  }

  #show(nowMs = Date.now()) {
    const { state } = this.#status;
    byId("job-open").classList.toggle("unknown", this.#unknown);
    mark(byId("job-state"), state);
    byId("job-cancel").hidden = ended(state) || this.#unknown;
    byId("job-cancel").disabled = state === "cancelling";
    byId("job-retry").hidden = state !== "failed";
    this.#showWhy(state);
    const facts = factsOf(this.#status, nowMs);
    const pairs = facts.map(([name, value]) => node("div", {}, node("dt", {}, name), node("dd", {}, value)));
    byId("job-facts").replaceChildren(...pairs);
  }

  #showWhy(state) {
    const box = byId("job-why");
    const { why } = this.#status;
    box.hidden = !why || ["running", "completed", "cancelled"].includes(state);
    if (box.hidden) return;
    box.className = `why ${state === "failed" ? "bad" : "warn"}`;
    const [title, code, text] = box.children;
    write(title, state !== "failed" ? "Why it waits" : `Failed${this.#status.attempt ? ` in attempt ${this.#status.attempt}` : ""}`);
    write(code, state === "failed" ? (why.code ?? "") : "");
    const message = state === "failed" && why.code ? why.message.slice(why.code.length + 2) : why.message;
    write(text, `${capital(message)}${/[.!?]$/.test(message) ? "" : "."}`);
  }
}

function factsOf(job, nowMs) {
  return [
    ["Model", job.model ?? "default"],
    ["Upstream", job.upstream ?? ""],
    ["Attempt", job.attempt ? String(job.attempt) : ""],
    ["Age", job.queued_ms ? age(nowMs - job.queued_ms) : ""],
    ["First chunk", job.first_chunk_ms ? first(job) : ""],
    ["Took", job.state === "completed" && job.started_ms ? length(job.finished_ms - job.started_ms) : ""],
    ["Chunks", job.chunks ? `${count(job.chunks)} · ${pace(job)}/s` : ""],
  ].filter(([, value]) => value && value !== "–");
}
