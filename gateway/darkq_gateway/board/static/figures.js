// The figures at the top, and the title of the tab.

import { byId } from "./dom.js";
import { age, count, dots, many, rate, sum } from "./format.js";
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
  const perSecond = sum(jobs, (job) => job.chunks_per_s ?? 0);
  pace.show("Chunks/s", perSecond, rate(perSecond), "of the listed jobs");
}

function showSystemFigures(system, batches) {
  const { queues, workers, chunks_per_s: perSecond } = system;
  const { isDue, deferred, runs } = loadOf(queues);
  const oldest = Math.max(0, ...queues.map((queue) => queue.oldest_wait_s));
  const isPaused = queues.some((queue) => queue.paused);
  const note = dots(deferred && `${count(deferred)} deferred`, isDue && `oldest for ${age(oldest * 1000)}`, isPaused && "paused");
  waiting.show("Waiting", isDue + deferred, count(isDue + deferred), note || "no job waits", isPaused ? "warn" : "");
  const noWorker = workers.length === 0;
  running.show("Running", runs, count(runs), `on ${many(workers.length, "worker")}`, noWorker ? "bad" : "");
  const inBatches = sum(batches, (batch) => batch.failed);
  const recently = `${count(system.failed_recently)} in ${inBatches ? `1 h · ${count(inBatches)} in batches` : "the last hour"}`;
  failed.show("Failed", system.failed, count(system.failed), recently, system.failed_recently ? "bad" : "");
  pace.show("Chunks/s", perSecond ?? 0, perSecond === null ? "–" : rate(perSecond), "as workers count them");
}

const loadOf = (queues) => ({
  isDue: sum(queues, (queue) => queue.waiting),
  deferred: sum(queues, (queue) => queue.deferred),
  runs: sum(queues, (queue) => queue.running),
});

/** Set the title of the tab: the trouble, or the open job, or what runs. */
export function showTitle(trouble, openTitle, { system, listing }) {
  const { running, waiting } = listing.counts;
  const { isDue, deferred, runs } = system ? loadOf(system.queues) : { isDue: waiting ?? 0, deferred: 0, runs: running ?? 0 };
  const waits = isDue + deferred;
  const load = [runs && `${count(runs)} running`, waits && `${count(waits)} waiting`].filter(Boolean).join(", ");
  document.title = dots(trouble, openTitle, load, "darkq");
}
