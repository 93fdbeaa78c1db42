// What an operator must know first, at the top: paused queues, no worker, open breakers, no connection.

import { byId, list, node, write } from "./dom.js";
import { age, capital, clock, count, many, sum } from "./format.js";

const container = byId("notices");

/** Show the notices of a snapshot, and that of the connection; return the most urgent one in two words. */
export function showNotices(snapshot, outage) {
  const found = [outage, ...(snapshot?.system ? ofSystem(snapshot.system, snapshot.now_ms) : [])].filter(Boolean);
  list(container, found, (notice) => notice.key, make, (item, notice) => {
    item.className = `notice ${notice.tone}`;
    write(item.querySelector("strong"), notice.title);
    write(item.querySelector("span"), notice.text);
    write(item.querySelector("code"), notice.command ?? "");
    item.querySelector("code").hidden = !notice.command;
  });
  document.body.classList.toggle("stale", Boolean(outage));
  return found[0]?.short ?? "";
}

const make = () => node("li", {}, node("strong"), " ", node("span"), " ", node("code"));

/** The notice that there is no connection, and how old the figures are. */
export function outageNotice(cause, seenMs) {
  const since = seenMs ? `The figures are of ${clock(seenMs)}, ${age(Date.now() - seenMs)} ago. ` : "";
  return { key: "outage", tone: "bad", title: cause, text: `${since}Retrying.`, short: "not live" };
}

function ofSystem({ queues, workers, upstreams }, nowMs) {
  const waits = sum(queues, (queue) => queue.waiting + queue.deferred);
  const notices = [];
  if (!workers.length) notices.push(noWorker(waits));
  else if (workers.every((worker) => worker.drained)) notices.push(allDrain(waits));
  for (const queue of queues) {
    if (queue.paused) notices.push(mark(queue, queue.paused, "paused", nowMs));
    if (queue.closed) notices.push(mark(queue, queue.closed, "closed", nowMs));
  }
  for (const upstream of upstreams) if (upstream.breaker === "open") notices.push(breaker(upstream, nowMs));
  return notices;
}

function noWorker(waits) {
  const text = waits ? `${many(waits, "job")} ${waits === 1 ? "waits" : "wait"}. Start one:` : "New jobs wait. Start one:";
  return { key: "no-worker", tone: "bad", title: "No worker is running.", text, command: "darkq worker", short: "no worker" };
}

function allDrain(waits) {
  const text = `They finish their jobs and claim no others. ${many(waits, "job")} waiting.`;
  return { key: "drain", tone: "warn", title: "All workers are draining.", text, short: "draining" };
}

function mark({ priority, waiting, deferred, partitions }, { by, why, since_ms, partitions: marked }, state, nowMs) {
  const author = by ? ` by ${by}` : "";
  const where = marked < partitions ? `, in ${count(marked)} of ${count(partitions)} partitions` : "";
  const reason = why ? `: ${why}` : ".";
  const effect = state === "paused" ? ` ${many(waiting + deferred, "job")} waiting.` : " It takes no new jobs.";
  return {
    key: `${state}-${priority}`,
    tone: "warn",
    title: `The ${priority} queue is ${state}`,
    text: `${author}${where}, ${age(nowMs - since_ms)} ago${reason}${why && !/[.!?]$/.test(why) ? "." : ""}${effect}`.trim(),
    command: `darkq queues ${state === "paused" ? "resume" : "open"} ${priority}`,
    short: `${priority} ${state}`,
  };
}

function breaker({ name, reopens_at_ms, waiting }, nowMs) {
  const again = reopens_at_ms ? ` A call is tried again in ${age(reopens_at_ms - nowMs)}.` : "";
  return {
    key: `breaker-${name}`,
    tone: "warn",
    title: `${capital(name)} fails: its circuit breaker is open.`,
    text: `${again} ${waiting ? `${many(waiting, "job")} deferred.` : ""}`.trim(),
    short: `${name} fails`,
  };
}
