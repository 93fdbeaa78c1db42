// The list of jobs, newest first: prompts lead, and what waits or has failed says why.

import { byId, list, mark, node, write } from "./dom.js";
import { age, count, dots, first, length, pace, short } from "./format.js";

const table = byId("jobs");
const body = table.querySelector("tbody");

/** Show the jobs of a snapshot and mark the open one. */
export function showJobs({ listing, now_ms }, openId) {
  table.hidden = listing.jobs.length === 0;
  list(body, listing.jobs, (job) => job.job_id, make, (row, job) => update(row, job, now_ms, openId));
}

function make({ job_id }) {
  const link = node("a", { href: `#job=${job_id}`, title: job_id, dir: "auto" });
  return node(
    "tr",
    {},
    node("th", { scope: "row" }, link, node("small", { class: "about" })),
    node("td", {}, node("span", { class: "pill" }), node("small")),
    ...[1, 2, 3].map(() => node("td", { class: "number" })),
  );
}

function update(row, job, nowMs, openId) {
  const [name, state, since, firstChunk, speed] = row.children;
  const [link, about] = name.children;
  const [pill, note] = state.children;
  const isOpen = job.job_id === openId;
  row.classList.toggle("open", isOpen);
  if (isOpen) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
  write(link, job.prompt || (job.answer ? `→ ${job.answer}` : short(job.job_id)));
  link.classList.toggle("unnamed", !job.prompt && !job.answer);
  link.classList.toggle("answered", !job.prompt && Boolean(job.answer));
  write(about, aboutOf(job));
  about.className = `about ${job.why ? (job.state === "failed" ? "bad" : "warn") : ""}`;
  about.title = job.why?.message ?? "";
  mark(pill, job.state);
  write(note, noteOf(job));
  write(since, job.queued_ms ? age(nowMs - job.queued_ms) : "–");
  write(firstChunk, first(job));
  write(speed, pace(job));
}

/** The line below the prompt: why the job waits or has failed, else its id and its model. */
function aboutOf(job) {
  const line = job.line ? `line ${count(job.line)}` : "";
  if (job.why) return dots(line, job.why.message);
  return dots(line, (job.prompt || job.answer) && short(job.job_id), job.model ?? "default model");
}

function noteOf(job) {
  if (job.state === "deferred" && job.due_in_ms) return `due in ${length(job.due_in_ms)}`;
  if (job.attempt > 1) return `attempt ${job.attempt}`;
  return job.priority === "bulk" ? "bulk" : "";
}
