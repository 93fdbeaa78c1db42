// The figures at the top, and the title of the tab.

import { byId } from "./dom.js";
import { age, count, many, rate } from "./format.js";
import { Figure } from "./plots.js";

const [waiting, running, failed, pace] = ["waiting", "running", "failed", "pace"].map(
  (name) => new Figure(byId(`figure-${name}`)),
);

/** Show the figures of a snapshot: of all tenants if it has them, else of the caller's latest jobs. */
export function showFigures({ system, listing, batches }) {
  if (system) return showSystemFigures(system, batches);
  const { counts, total, jobs } = listing;
  const note = total === 1 ? "of your latest job" : `of your ${count(total)} latest jobs`;
  waiting.show("Waiting", counts.waiting ?? 0, count(counts.waiting ?? 0), note);
  running.show("Running", counts.running ?? 0, count(counts.running ?? 0), note);
  failed.show("Failed", counts.failed ?? 0, count(counts.failed ?? 0), note, counts.failed ? "bad" : "");
  const perSecond = jobs.reduce((sum, job) => sum + (job.chunks_per_s ?? 0), 0);
  pace.show("Chunks/s", perSecond, rate(perSecond), "of the listed jobs");
}

function showSystemFigures(system, batches) {
  const { queues, workers, chunks_per_s: perSecond } = system;
  const sum = (name) => queues.reduce((total, queue) => total + queue[name], 0);
  const [isDue, deferred, runs] = [sum("waiting"), sum("deferred"), sum("running")];
  const oldest = Math.max(0, ...queues.map((queue) => queue.oldest_wait_s));
  const parts = [];
  if (deferred) parts.push(`${count(deferred)} deferred`);
  if (isDue) parts.push(`oldest for ${age(oldest * 1000)}`);
  const isPaused = queues.some((queue) => queue.paused);
  if (isPaused) parts.push("paused");
  waiting.show("Waiting", isDue + deferred, count(isDue + deferred), parts.join(" · ") || "no job waits", isPaused ? "warn" : "");
  const noWorker = workers.length === 0;
  running.show("Running", runs, count(runs), `on ${many(workers.length, "worker")}`, noWorker ? "bad" : "");
  const inBatches = batches.reduce((total, batch) => total + batch.failed, 0);
  const recently = `${count(system.failed_recently)} in ${inBatches ? `1 h · ${count(inBatches)} in batches` : "the last hour"}`;
  failed.show("Failed", system.failed, count(system.failed), recently, system.failed_recently ? "bad" : "");
  pace.show("Chunks/s", perSecond ?? 0, perSecond === null ? "–" : rate(perSecond), "as workers count them");
}

/** Set the title of the tab: the trouble, or the open job, or what runs. */
export function showTitle(trouble, openTitle, { system, listing }) {
  const sum = (name) => system.queues.reduce((total, queue) => total + queue[name], 0);
  const runs = system ? sum("running") : (listing.counts.running ?? 0);
  const waits = system ? sum("waiting") + sum("deferred") : (listing.counts.waiting ?? 0);
  const load = [runs ? `${count(runs)} running` : "", waits ? `${count(waits)} waiting` : ""].filter(Boolean).join(", ");
  document.title = [trouble, openTitle, load, "darkq"].filter(Boolean).join(" · ");
}
