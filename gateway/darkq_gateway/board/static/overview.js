// The stream of snapshots, and what the page says while there is none.

import { ask, reason } from "./api.js";
import { follow } from "./darkq.js";
import { byId, mark } from "./dom.js";

const connection = byId("connection");
const PROBE_MS = 3000;

/** Follows snapshots while the page is visible. */
export class Overview {
  #page;
  #aborter = null;
  #probe = 0;
  seenMs = 0; // when the last snapshot came

  /** `page.query()` returns what to list, `page.show` gets each snapshot, `page.lost` the cause of an outage. */
  constructor(page) {
    this.#page = page;
    document.addEventListener("visibilitychange", () => this.open());
  }

  /** For how long no snapshot has come. */
  get silentMs() {
    return Date.now() - this.seenMs;
  }

  /** Connect again, with the present query. */
  open() {
    this.#aborter?.abort();
    clearTimeout(this.#probe);
    if (document.hidden) return;
    this.#aborter = new AbortController();
    this.#run(this.#aborter.signal);
  }

  async #run(signal) {
    const onState = (state) => !signal.aborted && this.#turn(state, signal);
    const onEvent = (snapshot) => {
      if (signal.aborted) return true;
      this.#turn("live", signal);
      this.seenMs = Date.now();
      this.#page.show(snapshot);
      return false;
    };
    try {
      await follow(`/board/overview?${this.#page.query()}`, { onEvent, onState, signal, fetch: ask });
    } catch (error) {
      if (signal.aborted) return;
      mark(connection, "not live");
      this.#page.lost(reason(error), this.seenMs);
    }
  }

  #turn(state, signal) {
    const isLive = state === "live";
    mark(connection, isLive ? "live" : "reconnecting");
    clearTimeout(this.#probe);
    if (!isLive) this.#find(signal);
  }

  /** Find out why there is no stream; the gateway says whether Redis answers. */
  async #find(signal) {
    const cause = await readCause(signal);
    if (signal.aborted || connection.dataset.state === "live") return;
    if (cause) this.#page.lost(cause, this.seenMs);
    this.#probe = setTimeout(() => this.#find(signal), PROBE_MS);
  }
}

async function readCause(signal) {
  try {
    const response = await fetch("/readyz", { cache: "no-store", signal });
    if (response.ok) return "";
    const { error } = await response.json();
    return error.code === "draining" ? "The gateway is restarting." : "Redis does not answer.";
  } catch {
    return "The gateway does not respond.";
  }
}
