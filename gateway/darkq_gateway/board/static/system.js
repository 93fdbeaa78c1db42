// Workers and upstreams, which all tenants share. The gateway sends them to operators only.

import { byId, head, list, mark, node, write } from "./dom.js";
import { age, count, dots, many } from "./format.js";

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
  const name = node("strong", {}, host, ...(pid ? [node("small", {}, ` pid ${pid}`)] : []));
  return node("li", { title: worker }, head(name), node("p", { class: "note" }));
}

function leases({ running, first_ends_ms, drained }, nowMs) {
  return dots(
    running ? many(running, "job") : "no job now",
    running && `leases for ${age(first_ends_ms - nowMs)} at least`,
    drained && `draining${drained.by ? `, by ${drained.by}` : ""}`,
  );
}

function makeUpstream({ name, kind }) {
  const title = node("strong", {}, name, ...(kind === name ? [] : [node("small", {}, ` ${kind}`)]));
  return node("li", {}, head(title), node("p", { class: "note" }), node("ul", { class: "limits" }));
}

function showUpstream(item, each, nowMs) {
  const [title, note, limits] = item.children;
  mark(title.lastElementChild, BREAKER[each.breaker] ?? each.breaker);
  const deferred = each.waiting && `${count(each.waiting)} deferred`;
  const again = each.reopens_at_ms && `again in ${age(each.reopens_at_ms - nowMs)}`;
  write(note, dots(many(each.models.length, "model"), many(each.workers, "worker"), deferred, again));
  list(limits, limitsOf(each), (limit) => limit.name, makeLimit, (row, limit) => {
    const [meter, text] = row.children;
    meter.max = limit.most;
    meter.value = Math.min(limit.used, limit.most);
    write(text, `${count(limit.used)} of ${count(limit.most)} ${limit.name}`);
  });
}

function limitsOf({ windows, concurrency, in_progress }) {
  const limits = windows.map(({ calls: most, length_s, used }) => ({ name: `calls in ${age(length_s * 1000)}`, most, used }));
  if (concurrency) limits.push({ name: "concurrent calls", most: concurrency, used: in_progress });
  return limits;
}

function makeLimit({ name }) {
  return node("li", {}, node("progress", { "aria-label": `Used of the limit, ${name}` }), node("span"));
}
