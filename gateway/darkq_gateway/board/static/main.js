// The page. The fragment of its address names the open job; the streams deliver all other state.

import { say } from "./announcer.js";
import { showBatches } from "./batches.js";
import { offerComposer, offerModels } from "./composer.js";
import { byId } from "./dom.js";
import { age, count, rate } from "./format.js";
import { OpenJob } from "./job.js";
import { showJobs, sumOf } from "./jobs.js";
import { offerKey } from "./key.js";
import { watchOverview } from "./overview.js";
import { Figure } from "./plots.js";
import { showSystem } from "./system.js";

const card = byId("job");
const figures = ["waiting", "running", "pace"].map((name) => new Figure(byId(`figure-${name}`)));
let open = null;
let latest = null;

function route() {
  const id = /^#job=(\d{1,4}-[0-9a-f]{32})$/.exec(location.hash)?.[1] ?? null;
  if (open?.id === id) return;
  open?.close();
  byId("job-open").hidden = id === null;
  byId("job-empty").hidden = id !== null;
  open = id === null ? null : new OpenJob(id);
  if (latest) show(latest);
}

function show(snapshot) {
  latest = snapshot;
  showJobs(snapshot, open?.id);
  showBatches(snapshot);
  showSystem(snapshot);
  showFigures(snapshot);
  const row = open && snapshot.jobs.find((job) => job.job_id === open.id);
  if (row) open.update(row, snapshot.now_ms);
}

function showFigures({ jobs, system }) {
  const ours = sumOf(jobs);
  const [waiting, running, pace] = figures;
  if (system) {
    const sum = (name) => system.queues.reduce((total, queue) => total + queue[name], 0);
    const oldest = Math.max(0, ...system.queues.map((queue) => queue.oldest_wait_s));
    const all = sum("waiting") + sum("deferred");
    const parts = [`${count(sum("deferred"))} deferred`];
    if (sum("waiting")) parts.push(`oldest for ${age(oldest * 1000)}`);
    waiting.show("Waiting", all, count(all), parts.join(" · "));
    const workers = system.workers.length;
    const note = `on ${count(workers)} ${workers === 1 ? "worker" : "workers"}`;
    running.show("Running", sum("running"), count(sum("running")), note);
  } else {
    waiting.show("Waiting", ours.waiting, count(ours.waiting), "of your latest jobs");
    running.show("Running", ours.running, count(ours.running), "of your latest jobs");
  }
  pace.show("Chunks/s", ours.perSecond, rate(ours.perSecond), "of the latest jobs");
}

offerComposer((id) => {
  location.hash = `job=${id}`;
  say("Sent");
});
byId("job-cancel").addEventListener("click", () => open?.cancel());
byId("job-retry").addEventListener("click", () => open?.retry());
byId("jobs").addEventListener("click", (click) => {
  if (click.target.closest("a")) requestAnimationFrame(() => card.focus());
});
window.addEventListener("hashchange", route);

const reopen = watchOverview(show);
offerKey(() => {
  reopen();
  offerModels();
});
offerModels();
route();
