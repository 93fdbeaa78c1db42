// Server-Sent Events over fetch, since an EventSource cannot send a key. Comes again by itself,
// with the id of the last event, and so misses nothing.

import { ApiError, ask } from "./api.js";

const SILENT_MS = 60_000; // the gateway is never silent for so long
const MAX_WAIT_MS = 15_000;
const FOR_GOOD = ["cursor_gone", "job_not_found"];

/**
 * Give each event's data to `onEvent` until that returns true, the gateway says that there are no
 * more, or the signal comes. `onState` hears `live` and `waiting`. Returns the last event's id.
 * Raises `ApiError` for what no waiting helps.
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

const errorIn = (error) => new ApiError(FOR_GOOD.includes(error.code) ? 410 : 503, error);

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Yield the events of a body, to its end; a body that falls silent has ended. */
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

/** From text, cut anywhere, to events: `{id, data, retryMs}`. */
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
