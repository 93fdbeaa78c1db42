// Follows and cancels jobs: README.md.

const SILENT_MS = 60_000; // pings come more often
const MAX_WAIT_MS = 15_000;
const ENDS = ["completed", "failed", "cancelled"];

/** An error response; status 0 is no response. `canRetry` is true if a retry can succeed. */
export class DarkqError extends Error {
  constructor(status, { code = "", message } = {}, retryAfterS = 0) {
    super(message ?? `HTTP status ${status}`);
    const canRetry = !status || status === 429 || status >= 500;
    Object.assign(this, { name: "DarkqError", status, code, retryAfterS, canRetry });
  }
}

/**
 * Call `onEvent(event, id)` with each event to the terminal one, or until it returns true. Reconnects
 * after the last event, and returns its id. Throws `DarkqError` if a retry cannot succeed.
 */
export async function follow(url, options) {
  const { onEvent, onState = () => {}, signal, keep } = options;
  let lastId = options.after ?? recall(keep);
  let retryMs = 1000;
  let failures = 0;
  let ticket, isNew;
  while (!signal?.aborted) {
    let waitMs = 0;
    try {
      isNew = !ticket;
      ticket ??= await take(options.ticket).catch(fail);
      const headers = new Headers(options.headers);
      if (lastId) headers.set("Last-Event-ID", lastId);
      const response = await request(url, { ...options, ticket, headers });
      if (response.status === 204) return lastId;
      onState("live");
      for await (const event of eventsOf(response)) {
        failures = 0;
        retryMs = event.retryMs ?? retryMs;
        lastId = event.id ?? lastId;
        if (!event.data) continue; // `?after=now`
        const data = JSON.parse(event.data);
        if (data.error) throw new DarkqError(/_gone$|_found$/.test(data.error.code) ? 410 : 503, data.error);
        recall(keep, lastId);
        if (onEvent(data, lastId) === true || ENDS.includes(data.type)) return lastId;
      }
    } catch (error) {
      if (signal?.aborted) return lastId;
      if (error.status === 401 && options.ticket?.call && !isNew) {
        ticket = undefined; // expired
        continue;
      }
      if (!error.canRetry) throw error;
      failures += 1;
      waitMs = Math.max(1000 * error.retryAfterS, retryMs * 2 ** Math.min(failures, 5));
    }
    onState("waiting");
    await pause(Math.min(waitMs || retryMs, MAX_WAIT_MS) * (0.75 + Math.random() / 2), signal);
  }
  return lastId;
}

/** Cancel by a POST, and return the new status. */
export async function cancel(url, options = {}) {
  const ticket = await take(options.ticket);
  return (await request(url, { ...options, ticket, method: "POST" })).json();
}

const take = async (ticket) => (ticket?.call ? ticket() : ticket);

async function request(url, { ticket, method, headers, signal, fetch = globalThis.fetch }) {
  const query = ticket ? `${url.includes("?") ? "&" : "?"}ticket=${encodeURIComponent(ticket)}` : "";
  const response = await fetch(url + query, { method, headers, signal }).catch(fail);
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new DarkqError(response.status, error, Number(response.headers.get("Retry-After")) || 0);
}

// Without a connection, `fetch` and the reader throw a `TypeError`.
function fail(error) {
  throw error instanceof TypeError ? new DarkqError(0, error) : error;
}

// Storage may be forbidden.
function recall(name, id) {
  try {
    if (name && id) sessionStorage.setItem(name, id);
    return (name && sessionStorage.getItem(name)) || "";
  } catch {
    return "";
  }
}

const pause = (ms, signal) =>
  new Promise((resolve) => {
    const end = () => (clearTimeout(timer), signal?.removeEventListener("abort", end), resolve());
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end);
  });

// Yield events, `{id, data, retryMs}`, until the end or silence of the response.
async function* eventsOf(response) {
  if (!/^text\/event-stream\b/.test(response.headers.get("Content-Type")))
    throw new DarkqError(200, { code: "not_events", message: "no event stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = {};
  try {
    for (;;) {
      const watch = setTimeout(() => reader.cancel(), SILENT_MS);
      const { done, value } = await reader.read().catch(fail).finally(() => clearTimeout(watch));
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line) addTo(event, line);
        else if (event.data || event.id) yield event;
        if (!line) event = {};
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function addTo(event, line) {
  const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
  if (field === "data") event.data = "data" in event ? `${event.data}\n${value}` : value;
  if (field === "id") event.id = value;
  if (field === "retry") event.retryMs = Number(value) || undefined;
}
