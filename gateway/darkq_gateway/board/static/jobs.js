// The latest jobs, newest first.

import { byId, list, mark, node, write } from "./dom.js";
import { age, ended, first, length, pace, short } from "./format.js";

const table = byId("jobs");
const body = table.querySelector("tbody");

/** Show the jobs of a snapshot and mark the open one. */
export function showJobs({ jobs, now_ms }, openId) {
  byId("jobs-empty").hidden = jobs.length > 0;
  table.hidden = jobs.length === 0;
  list(body, jobs, (job) => job.job_id, make, (row, job) => update(row, job, now_ms, openId));
}

function make({ job_id }) {
  const link = node("a", { href: `#job=${job_id}`, title: job_id }, node("code", {}, short(job_id)));
  return node(
    "tr",
    {},
    node("th", { scope: "row" }, link, node("small", { class: "model" })),
    node("td", {}, node("span", { class: "pill" }), node("small")),
    node("td", { class: "number" }),
    node("td", { class: "number" }),
    node("td", { class: "number" }),
  );
}

function update(row, job, nowMs, openId) {
  const [name, state, since, firstChunk, speed] = row.children;
  const [link, model] = name.children;
  const [pill, attempt] = state.children;
  const isOpen = job.job_id === openId;
  row.classList.toggle("open", isOpen);
  if (isOpen) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
  write(model, job.model ?? "default model");
  mark(pill, job.state);
  write(attempt, attemptOf(job));
  write(since, job.queued_ms ? age(nowMs - job.queued_ms) : "–");
  write(firstChunk, first(job));
  write(speed, pace(job));
}

function attemptOf(job) {
  if (job.state === "deferred" && job.due_in_ms) return `due in ${length(job.due_in_ms)}`;
  return job.attempt ? `attempt ${job.attempt}` : "";
}

/** Count the unfinished jobs and sum their rates. */
export function sumOf(jobs) {
  const unfinished = jobs.filter((job) => !ended(job.state));
  const running = unfinished.filter((job) => ["running", "cancelling"].includes(job.state));
  const perSecond = running.reduce((sum, job) => sum + (job.chunks_per_s ?? 0), 0);
  return { waiting: unfinished.length - running.length, running: running.length, perSecond };
}
