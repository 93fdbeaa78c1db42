// The open job: its attempts with their text, from the beginning and live, and its buttons.

import { say } from "./announcer.js";
import { ask, get, post, reason } from "./api.js";
import { Attempts } from "./attempts.js";
import { follow } from "./darkq.js";
import { byId, complain, mark, node, write } from "./dom.js";
import { EventList } from "./event_list.js";
import { age, count, ended, first, length, pace } from "./format.js";

const problem = byId("job-problem");
const attempts = byId("attempts");

/** A job while it is open; `close` stops reading it. */
export class OpenJob {
  #aborter = new AbortController();
  #status = { state: "queued", chunks: 0, first_chunk_ms: 0 };
  #lastId = "";
  #attempts = new Attempts(attempts);
  #events = new EventList(byId("events"), byId("events-count"));

  constructor(id) {
    this.id = id;
    write(byId("job-id"), id);
    complain(problem, null);
    this.#show();
    this.#look().catch((error) => complain(problem, capital(reason(error))));
    this.#read();
  }

  close() {
    this.#aborter.abort();
  }

  /** Update the job from a snapshot, except its end, which the event log reports first. */
  update(row, nowMs) {
    if (ended(this.#status.state)) return void this.#show(nowMs);
    const { chunks, first_chunk_ms } = this.#status;
    this.#status = { ...this.#status, ...row, chunks, first_chunk_ms };
    this.#show(nowMs);
  }

  async cancel() {
    await this.#do("cancel");
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

  async #look() {
    this.#take(await get(`/jobs/${this.id}`));
  }

  #take(status) {
    if (this.#aborter.signal.aborted) return;
    const { chunks, first_chunk_ms } = this.#status; // only the status of a finished job has them
    this.#status = { chunks, first_chunk_ms, ...status };
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
      this.#attempts = new Attempts(attempts);
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
        this.#turn("running", { attempt: event.attempt, chunks: 0, first_chunk_ms: 0 });
        break;
      case "chunk":
        this.#attempts.add(event.text);
        this.#status.chunks += event.merged ?? 1;
        this.#status.first_chunk_ms ||= event.at_ms;
        break;
      case "retrying":
        this.#attempts.lose(`${event.reason}, again in ${length(event.retry_in_s * 1000)}`);
        this.#turn("deferred");
        break;
      case "completed":
        this.#attempts.end("completed", event.finish_reason === "length" ? "cut off: length" : "");
        break;
      case "failed":
        this.#attempts.end("failed", `${event.code}: ${event.message}`);
        break;
      case "cancelled":
        this.#attempts.end("cancelled", "incomplete");
        break;
    }
    if (!ended(event.type)) return false;
    this.#turn(event.type);
    return true;
  }

  #turn(state, news = {}) {
    if (state !== this.#status.state) say(`Job ${state}`);
    this.#status = { ...this.#status, ...news, state };
    this.#show();
  }

  #show(nowMs = Date.now()) {
    const { state } = this.#status;
    mark(byId("job-state"), state);
    byId("job-cancel").hidden = ended(state);
    byId("job-cancel").disabled = state === "cancelling";
    byId("job-retry").hidden = state !== "failed";
    const facts = factsOf(this.#status, nowMs);
    const pairs = facts.map(([name, value]) => node("div", {}, node("dt", {}, name), node("dd", {}, value)));
    byId("job-facts").replaceChildren(...pairs);
  }
}

function factsOf(job, nowMs) {
  return [
    ["Attempt", job.attempt ? String(job.attempt) : "–"],
    ["Age", job.queued_ms ? age(nowMs - job.queued_ms) : "–"],
    ["First chunk", first(job)],
    ["Chunks", job.chunks ? count(job.chunks) : "–"],
    ["Chunks/s", pace(job)],
  ];
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
