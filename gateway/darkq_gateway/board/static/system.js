// Workers and upstreams, which all tenants share. The gateway sends them to operators only.

import { byId, list, mark, node, write } from "./dom.js";
import { age, count, many } from "./format.js";

const BREAKER = { closed: "healthy", open: "breaker open", "half-open": "trying again" };

/** Show the workers and upstreams of a snapshot, or hide both. */
export function showSystem({ system, now_ms }) {
  for (const card of document.querySelectorAll(".card.system")) card.hidden = !system;
  if (!system) return;
  byId("workers-empty").hidden = system.workers.length > 0;
  byId("upstreams-empty").hidden = system.upstreams.length > 0;
  list(byId("workers"), system.workers, (worker) => worker.worker, makeWorker, (item, worker) => {
    mark(item.querySelector(".pill"), worker.drained ? "draining" : worker.running ? "busy" : "idle");
    write(item.querySelector(".note"), leases(worker, now_ms));
  });
  list(byId("upstreams"), system.upstreams, (each) => each.name, makeUpstream, (item, each) =>
    showUpstream(item, each, now_ms),
  );
}

function makeWorker({ worker }) {
  const [, host, pid] = /^(.*):(\d+):[^:]*$/.exec(worker) ?? [null, worker, ""];
  return node(
    "li",
    { title: worker },
    node(
      "div",
      { class: "head" },
      node("strong", {}, host, ...(pid ? [node("small", {}, ` pid ${pid}`)] : [])),
      node("span", { class: "pill" }),
    ),
    node("p", { class: "note" }),
  );
}

function leases({ running, first_ends_ms, drained }, nowMs) {
  const parts = [running ? many(running, "job") : "no job now"];
  if (running) parts.push(`leases for ${age(first_ends_ms - nowMs)} at least`);
  if (drained) parts.push(`draining${drained.by ? `, by ${drained.by}` : ""}`);
  return parts.join(" · ");
}

function makeUpstream({ name, kind }) {
  return node(
    "li",
    {},
    node(
      "div",
      { class: "head" },
      node("strong", {}, name, ...(kind === name ? [] : [node("small", {}, ` ${kind}`)])),
      node("span", { class: "pill" }),
    ),
    node("p", { class: "note" }),
    node("ul", { class: "limits" }),
  );
}

function showUpstream(item, each, nowMs) {
  const [head, note, limits] = item.children;
  mark(head.lastElementChild, BREAKER[each.breaker] ?? each.breaker);
  const parts = [many(each.models.length, "model"), many(each.workers, "worker")];
  if (each.waiting) parts.push(`${count(each.waiting)} deferred`);
  if (each.reopens_at_ms) parts.push(`again in ${age(each.reopens_at_ms - nowMs)}`);
  write(note, parts.join(" · "));
  list(limits, limitsOf(each), (limit) => limit.name, makeLimit, (row, limit) => {
    const [meter, text] = row.children;
    meter.max = limit.most;
    meter.value = Math.min(limit.used, limit.most);
    write(text, `${count(limit.used)} of ${count(limit.most)} ${limit.name}`);
  });
}

function limitsOf({ windows, concurrency, in_progress }) {
  const limits = windows.map(({ calls, length_s, used }) => ({
    name: `calls in ${age(length_s * 1000)}`,
    most: calls,
    used,
  }));
  if (concurrency) limits.push({ name: "concurrent calls", most: concurrency, used: in_progress });
  return limits;
}

function makeLimit({ name }) {
  return node("li", {}, node("progress", { "aria-label": `Used of the limit, ${name}` }), node("span"));
}
