// The page. The fragment of its address names the open job; the streams deliver all other state.

import { say } from "./announcer.js";
import { showBatches } from "./batches.js";
import { offerComposer, offerModels } from "./composer.js";
import { byId, complain } from "./dom.js";
import { showFigures, showTitle } from "./figures.js";
import { OpenJob } from "./job.js";
import { showJobs } from "./jobs.js";
import { offerKey } from "./key.js";
import { ListControls } from "./list_controls.js";
import { outageNotice, showNotices } from "./notices.js";
import { Overview } from "./overview.js";
import { showSystem } from "./system.js";

const TICK_MS = 1000;
const SAMPLE_MS = 700;
const STALE_MS = 5000; // a snapshot comes once per second
const card = byId("job");
let open = null;
let latest = null;
let outage = null; // the cause, and when the last snapshot came
let drawnMs = 0;
let movesFocus = false; // to the job that a click opens

const list = new ListControls(() => overview.open());
const overview = new Overview({
  query: () => list.query,
  show(snapshot) {
    latest = snapshot;
    outage = null;
    show();
    drawFigures();
  },
  lost(cause, seenMs) {
    outage = { cause, seenMs };
    show();
  },
});

function route() {
  const named = /^#job=(.*)$/.exec(location.hash)?.[1] ?? null;
  const id = /^\d{1,4}-[0-9a-f]{32}$/.test(named ?? "") ? named : null;
  complain(byId("address-problem"), named !== null && id === null ? `“${decode(named)}” is not the id of a job.` : null);
  if (open?.id === id) return;
  open?.close();
  card.classList.toggle("open", id !== null);
  byId("job-open").hidden = id === null;
  byId("job-empty").hidden = id !== null;
  open = id === null ? null : new OpenJob(id);
  if (movesFocus) card.focus();
  movesFocus = false;
  show();
}

/** Close the job, and go back to its row; an empty fragment would scroll to the top. */
function closeJob() {
  const row = document.querySelector('#jobs a[aria-current="true"]');
  history.pushState(null, "", location.pathname);
  route();
  row?.focus();
}

function decode(text) {
  try {
    return decodeURIComponent(text).slice(0, 80);
  } catch {
    return text.slice(0, 80);
  }
}

function show() {
  const trouble = showNotices(latest, outage && outageNotice(outage.cause, outage.seenMs));
  if (!latest) return;
  if (!outage) {
    showJobs(latest, open?.id);
    list.show(latest);
    showBatches(latest);
    showSystem(latest);
    const row = open && latest.listing.jobs.find((job) => job.job_id === open.id);
    if (row) open.update(row, latest.now_ms);
  }
  showTitle(trouble, open?.title, latest);
}

/** Draw one sample per second, also if another filter brings another snapshot. */
function drawFigures() {
  if (Date.now() - drawnMs < SAMPLE_MS) return;
  drawnMs = Date.now();
  showFigures(latest);
}

/** Show how old the figures are. */
function tick() {
  if (document.hidden || !latest) return;
  if (!outage && overview.silentMs > STALE_MS) outage = { cause: "No new figures come.", seenMs: overview.seenMs };
  if (outage) show();
}

offerComposer((id) => {
  location.hash = `job=${id}`;
  say("Sent");
});
byId("job-cancel").addEventListener("click", () => open?.cancel());
byId("job-retry").addEventListener("click", () => open?.retry());
byId("jobs").addEventListener("click", (click) => {
  const link = click.target.closest("tr")?.querySelector("a");
  if (!link) return;
  if (link.hash === location.hash) return card.focus();
  movesFocus = true;
  if (!click.target.closest("a") && !String(getSelection())) location.hash = link.hash;
});
byId("batches").addEventListener("click", (click) => {
  const button = click.target.closest("[data-batch]");
  if (!button) return;
  list.openBatch({ id: button.dataset.batch, name: button.dataset.name });
  byId("jobs-title").scrollIntoView({ block: "nearest" });
  byId("jobs-title").focus();
});
byId("job-close").addEventListener("click", (click) => {
  click.preventDefault();
  closeJob();
});
window.addEventListener("keydown", (press) => {
  if (press.key === "Escape" && open && !document.querySelector("dialog[open]")) closeJob();
});
window.addEventListener("popstate", route);
window.addEventListener("hashchange", route);

offerKey(() => {
  overview.open();
  offerModels();
});
overview.open();
setInterval(tick, TICK_MS);
offerModels();
route();
