// The batches and their progress; one that is opened lists its lines.

import { byId, head, list, mark, node, shape, write } from "./dom.js";
import { age, count, dots, short, sum } from "./format.js";

const nameOf = (batch) => batch.name ?? short(batch.batch_id.replace("batch-", ""));

/** Show the batches of a snapshot. */
export function showBatches({ batches, now_ms }) {
  byId("batches-empty").hidden = batches.length > 0;
  list(byId("batches"), batches, (batch) => batch.batch_id, make, (item, batch) => {
    const [title, meter, note] = item.children;
    const ended = batch.completed + batch.failed + batch.cancelled;
    const total = batch.total ?? batch.expected;
    mark(title.lastElementChild, batch.failed && batch.state === "completed" ? "completed with failures" : batch.state);
    fill(meter, batch, total ?? 0);
    meter.setAttribute("aria-label", `Progress of batch ${nameOf(batch)}: ${count(ended)} of ${count(total ?? batch.added)}`);
    const [progress, failed, rest] = note.children;
    write(progress, total === null ? `${count(ended)} of ${count(batch.added)} so far` : `${count(ended)} of ${count(total)}`);
    write(failed, batch.failed ? `${count(batch.failed)} failed` : "");
    write(rest, dots(batch.cancelled && `${count(batch.cancelled)} cancelled`, `${age(now_ms - batch.created_ms)} old`));
  });
}

/** Draw the shares of a batch; while its total is unknown, the whole is unknown too. */
function fill(meter, batch, total) {
  meter.classList.toggle("unknown", !total);
  const shares = [batch.completed, batch.failed, batch.cancelled];
  [...meter.children].forEach((part, number) => {
    const before = sum(shares.slice(0, number), Number);
    part.setAttribute("width", String(total ? Math.min(100, (shares[number] / total) * 100) : 0));
    part.setAttribute("x", String(total ? Math.min(100, (before / total) * 100) : 0));
  });
}

function make(batch) {
  const name = nameOf(batch);
  const open = node("button", { type: "button", class: "link", "data-batch": batch.batch_id, "data-name": name }, name);
  return node(
    "li",
    { title: batch.batch_id },
    head(open),
    meter(),
    node("p", { class: "note parts" }, node("span"), node("span", { class: "bad" }), node("span")),
  );
}

function meter() {
  const parts = ["completed", "failed", "cancelled"].map((kind) => shape("rect", { class: kind, height: "1" }));
  const attributes = { viewBox: "0 0 100 1", preserveAspectRatio: "none", role: "img", class: "meter" };
  return shape("svg", attributes, ...parts);
}
