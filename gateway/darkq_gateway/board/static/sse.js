// Server-Sent Events over fetch, since an EventSource cannot send an API key. Reconnects by itself with
// the id of the last event, so no event is lost.

import { ApiError, ask } from "./api.js";

const SILENT_MS = 60_000; // the gateway sends a ping more often than this
const MAX_WAIT_MS = 15_000;
const PERMANENT = ["cursor_gone", "job_not_found"];

/**
 * Call `onEvent` with the data of each event until it returns true, the gateway has no more events, or
 * the signal aborts. `onState` is called with `live` and `waiting`. Returns the id of the last event.
 * Throws `ApiError` if a retry cannot succeed.
 */
export async function follow(path, { onEvent, onState = () => {}, signal, after = "" }) {
  let lastId = after;
  let retryMs = 1000;
  let failures = 0;
  while (!signal.aborted) {
    let waitMs = retryMs;
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const response = await ask(path, { headers, signal });
      if (response.status === 204) return lastId;
      onState("live");
      for await (const event of eventsOf(response.body)) {
        failures = 0;
        retryMs = event.retryMs ?? retryMs;
        const data = JSON.parse(event.data);
        if (data.error) throw errorIn(data.error);
        lastId = event.id ?? lastId;
        if (onEvent(data)) return lastId;
      }
    } catch (error) {
      if (signal.aborted) return lastId;
      if (error instanceof ApiError && !error.passes) throw error;
      failures += 1;
      waitMs = Math.max(1000 * (error.retryAfterS ?? 0), retryMs * 2 ** Math.min(failures, 5));
    }
    onState("waiting");
    await pause(Math.min(waitMs, MAX_WAIT_MS) * (0.75 + Math.random() / 2), signal);
  }
  return lastId;
}

const errorIn = (error) => new ApiError(PERMANENT.includes(error.code) ? 410 : 503, error);

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Yield the events of a body until it ends or is silent for `SILENT_MS`. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const decoder = new Decoder();
  try {
    for (;;) {
      const watch = setTimeout(() => reader.cancel(), SILENT_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(watch));
      if (done) return;
      yield* decoder.feed(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Decodes text in pieces of any size into events: `{id, data, retryMs}`. */
export class Decoder {
  #rest = "";
  #event = {};

  *feed(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) {
      const event = this.#take(line.endsWith("\r") ? line.slice(0, -1) : line);
      if (event) yield event;
    }
  }

  #take(line) {
    if (line === "") {
      const event = this.#event;
      this.#event = {};
      return event.data === undefined ? null : event;
    }
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "data") this.#event.data = this.#event.data === undefined ? value : `${this.#event.data}\n${value}`;
    if (field === "id") this.#event.id = value;
    if (field === "retry" && /^\d+$/.test(value)) this.#event.retryMs = Number(value);
    return null;
  }
}
