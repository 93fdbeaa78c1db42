// The client against real HTTP servers that play a gateway, and misbehave.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { afterEach, test } from "node:test";

import { cancel, DarkqError, follow } from "../darkq.js";

const SSE = { "Content-Type": "text/event-stream; charset=utf-8" };
const event = (id, type, more = {}) =>
  `retry: 1\nid: ${id}\ndata: ${JSON.stringify({ type, id, ...more })}\n\n`;
const error = (code) => JSON.stringify({ error: { code, message: `it is ${code}`, field: null } });

const servers = [];
afterEach(() => servers.splice(0).forEach((server) => (server.closeAllConnections(), server.close())));

/** Serve with one handler per request, the last one for all further requests. */
async function serve(...handlers) {
  const requests = [];
  const server = createServer((request, response) => {
    requests.push(request);
    handlers[Math.min(requests.length, handlers.length) - 1](response, request);
  });
  servers.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}/jobs/1/events`;
  return { url, requests, cursors: () => requests.map((each) => each.headers["last-event-id"]) };
}

const sends = (...frames) => (response) => {
  response.writeHead(200, SSE);
  response.end(frames.join(""));
};
const breaksAfter = (...frames) => (response) => {
  response.writeHead(200, SSE);
  response.write(frames.join(""), () => setTimeout(() => response.destroy(), 5));
};
const refuses = (status, code, headers = {}) => (response) => {
  response.writeHead(status, { "Content-Type": "application/json", ...headers });
  response.end(error(code));
};

/** Follow to the end; return the ids, the last id, and the states. */
async function read(url, options = {}) {
  const [ids, states] = [[], []];
  const onEvent = (each, id) => void ids.push(id);
  const onState = (state) => states.push(state);
  const last = await follow(url, { onEvent, onState, ...options });
  return { ids, last, states };
}

test("an id alone is where to resume", async () => {
  const { url, cursors } = await serve(
    breaksAfter("retry: 1\nid: 1-2\n\n"),
    sends(event("1-3", "completed")),
  );
  const { ids } = await read(url);
  assert.deepEqual(ids, ["1-3"]);
  assert.deepEqual(cursors(), [undefined, "1-2"]);
});

test("each event comes once, over connections that end and that break", async () => {
  const { url, cursors } = await serve(
    sends(event("0-1", "queued")),
    breaksAfter(event("1-0", "started"), event("1-1", "chunk"), "id: 1-2\ndata: {"),
    breaksAfter(),
    sends(event("1-2", "chunk"), event("1-3", "completed")),
  );
  const { ids, last, states } = await read(url);
  assert.deepEqual(ids, ["0-1", "1-0", "1-1", "1-2", "1-3"]);
  assert.equal(last, "1-3");
  assert.deepEqual(cursors(), [undefined, "0-1", "1-1", "1-1"]);
  assert.equal(states.filter((state) => state === "waiting").length, 3);
});

test("it stops at the terminal event, at 204, and when onEvent returns true", async () => {
  for (const type of ["completed", "failed", "cancelled"]) {
    const { url, requests } = await serve(sends(event("1-1", type)));
    assert.equal((await read(url)).last, "1-1");
    assert.equal(requests.length, 1);
  }
  const gone = await serve((response) => response.writeHead(204).end());
  assert.deepEqual(await read(gone.url, { after: "1-9" }), { ids: [], last: "1-9", states: [] });
  assert.deepEqual(gone.cursors(), ["1-9"]);
  const two = await serve(sends(event("1-1", "chunk"), event("1-2", "chunk")));
  assert.equal(await follow(two.url, { onEvent: (each) => each.id === "1-1" }), "1-1");
});

test("text is the same in whatever pieces it comes", async () => {
  const frames = [
    ": ping\r\n\r\ndata: {\"text\":\r\ndata:  \"a\u2028é😀\"}\r\nid: 1-1\r\n\r\n",
    ":\rid: 1-2\rdata: {\"text\": \"b\"}\r\rdata:{\"type\":\"completed\"}\n\n",
  ].join("");
  const bytes = new TextEncoder().encode(frames);
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const { url } = await serve(async (response) => {
      response.writeHead(200, SSE);
      for (let at = 0; at < bytes.length; at += size) {
        response.write(bytes.subarray(at, at + size));
        await new Promise(setImmediate);
      }
      response.end();
    });
    const seen = [];
    await follow(url, { onEvent: (each, id) => void seen.push([each.text, id]) });
    assert.deepEqual(seen, [["a\u2028é😀", "1-1"], ["b", "1-2"], [undefined, "1-2"]], `${size}`);
  }
});

test("what may pass is tried again, no sooner than the server says", async () => {
  const { url, requests } = await serve(
    sends(event("0-1", "queued")), // with its pause of 1 ms
    refuses(503, "unavailable"),
    refuses(429, "rate_limited", { "Retry-After": "0.2" }),
    sends('data: {"error":{"code":"unavailable","message":"x"}}\n\n'),
    sends(event("1-1", "completed")),
  );
  const begun = performance.now();
  assert.deepEqual((await read(url)).ids, ["0-1", "1-1"]);
  assert.equal(requests.length, 5);
  assert.ok(performance.now() - begun >= 150, "0.2 s, less a quarter at most");
});

test("pauses grow, are spread, and are bounded", async (context) => {
  const pauses = [];
  context.mock.method(globalThis, "setTimeout", (resolve, ms) => {
    if (ms !== 60_000) pauses.push(ms);
    queueMicrotask(resolve);
  });
  let left = 12;
  const fetch = async () => {
    if (left--) throw new TypeError("fetch failed");
    return new Response(null, { status: 204 });
  };
  await follow("/jobs/1/events", { onEvent() {}, fetch });
  const bounds = [2, 4, 8, 15, 15, 15, 15, 15, 15, 15, 15, 15].map((s) => s * 1000);
  assert.equal(pauses.length, bounds.length);
  pauses.forEach((ms, n) => assert.ok(0.75 * bounds[n] <= ms && ms <= 1.25 * bounds[n], `${ms}`));
  assert.equal(new Set(pauses).size, pauses.length);
});

test("what cannot pass is thrown", async () => {
  for (const [status, code] of [[401, "invalid_api_key"], [404, "job_not_found"], [410, "cursor_gone"]]) {
    const { url, requests } = await serve(refuses(status, code));
    await assert.rejects(read(url), { name: "DarkqError", status, code, message: `it is ${code}` });
    assert.equal(requests.length, 1);
  }
  const later = await serve(sends(`data: ${error("cursor_gone")}\n\n`));
  await assert.rejects(read(later.url), { code: "cursor_gone", canRetry: false });
  const page = await serve((response) => response.writeHead(200, { "Content-Type": "text/html" }).end());
  await assert.rejects(read(page.url), { code: "not_events" });
});

test("an error of onEvent ends it: it is not taken for a lost connection", async () => {
  const { url, requests } = await serve(sends(event("1-1", "chunk")));
  const onEvent = () => null.nothing;
  await assert.rejects(follow(url, { onEvent }), TypeError);
  assert.equal(requests.length, 1);
});

test("an expired ticket is replaced by a new one, a new one that is refused is not", async () => {
  const tickets = ["a b&c", "second", "third"];
  const { url, requests } = await serve(
    sends(event("1-0", "started")),
    refuses(401, "invalid_api_key"),
    sends(event("1-1", "chunk")),
    refuses(401, "invalid_api_key"),
    refuses(401, "invalid_api_key"),
  );
  const ticket = async () => tickets.shift();
  await assert.rejects(read(`${url}?x=1`, { ticket }), { status: 401 });
  const used = requests.map((each) => new URL(each.url, url).searchParams);
  assert.deepEqual(used.map((each) => each.get("ticket")), ["a b&c", "a b&c", "second", "second", "third"]);
  assert.ok(used.every((each) => each.get("x") === "1"));
  assert.deepEqual(tickets, []);
});

test("without a connection a ticket is asked for again", async () => {
  const { url } = await serve(sends(event("1-1", "completed")));
  let failures = 1;
  const ticket = async () => {
    if (failures--) throw new TypeError("fetch failed");
    return "t";
  };
  assert.deepEqual((await read(url, { ticket })).ids, ["1-1"]);
});

test("abort ends it, in a pause and in a silent stream", async () => {
  for (const handler of [refuses(503, "unavailable", { "Retry-After": "9" }), (response) => response.writeHead(200, SSE).flushHeaders()]) {
    const { url, requests } = await serve(handler);
    const aborter = new AbortController();
    const reading = read(url, { signal: aborter.signal, after: "1-1" });
    while (!requests.length) await new Promise(setImmediate);
    setTimeout(() => aborter.abort(), 20);
    assert.equal((await reading).last, "1-1");
  }
  assert.equal((await read("http://127.0.0.1:1", { signal: AbortSignal.abort(), after: "1-1" })).last, "1-1");
});

test("a kept cursor survives a reload, and forbidden storage is no error", async () => {
  const kept = new Map();
  globalThis.sessionStorage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, id) => kept.set(name, id) };
  const { url, cursors } = await serve(sends(event("1-0", "started"), event("1-1", "chunk")), sends(event("1-2", "completed")));
  await follow(url, { onEvent: (each) => each.id === "1-1", keep: "job" });
  assert.equal(kept.get("job"), "1-1");
  assert.deepEqual((await read(url, { keep: "job" })).ids, ["1-2"]);
  assert.deepEqual(cursors(), [undefined, "1-1"]);
  globalThis.sessionStorage = { getItem: () => { throw new Error("denied"); } };
  assert.deepEqual((await read(url, { keep: "job" })).ids, ["1-2"]);
  delete globalThis.sessionStorage;
});

test("cancel is a POST with the ticket, and returns the status", async () => {
  const { url, requests } = await serve((response) => response.end('{"state":"cancelling"}'), refuses(403, "ticket_not_allowed"));
  assert.deepEqual(await cancel(url, { ticket: "t", headers: { "X-Own": "1" } }), { state: "cancelling" });
  assert.equal(requests[0].method, "POST");
  assert.equal(requests[0].headers["x-own"], "1");
  assert.ok(requests[0].url.endsWith("?ticket=t"));
  await assert.rejects(cancel(url, { ticket: () => "t" }), { code: "ticket_not_allowed", canRetry: false });
  await assert.rejects(cancel("http://127.0.0.1:1/x"), { status: 0, canRetry: true });
});

test("an error says whether a retry can succeed", () => {
  for (const [status, canRetry] of [[0, true], [400, false], [401, false], [404, false], [429, true], [500, true], [503, true]])
    assert.equal(new DarkqError(status).canRetry, canRetry, `${status}`);
});

test("it is under 5 kB and imports nothing", async () => {
  const source = await readFile(new URL("../darkq.js", import.meta.url), "utf8");
  assert.ok(Buffer.byteLength(source) < 5000, `${Buffer.byteLength(source)} bytes`);
  assert.doesNotMatch(source, /^import |\bimport\(|require\(/m);
});
