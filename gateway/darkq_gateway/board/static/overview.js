// The stream of snapshots, which is open while the page is visible.

import { ask, reason } from "./api.js";
import { follow } from "./darkq.js";
import { byId, mark } from "./dom.js";

const connection = byId("connection");
let aborter = null;

/** Call `show` with each snapshot while the page is visible; return a function that reconnects. */
export function watchOverview(show) {
  const open = () => {
    aborter?.abort();
    aborter = new AbortController();
    if (!document.hidden) run(show, aborter.signal);
  };
  document.addEventListener("visibilitychange", open);
  open();
  return open;
}

async function run(show, signal) {
  const onState = (state) => mark(connection, state === "live" ? "live" : "reconnecting");
  const onEvent = (snapshot) => {
    show(snapshot);
    return false;
  };
  try {
    await follow("/board/overview", { onEvent, onState, signal, fetch: ask });
  } catch (error) {
    mark(connection, reason(error));
  }
}
