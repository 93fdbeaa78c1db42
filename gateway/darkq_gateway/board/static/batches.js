// The batches and their progress.

import { byId, list, mark, node, write } from "./dom.js";
import { age, count, short } from "./format.js";

/** Show the batches of a snapshot. */
export function showBatches({ batches, now_ms }) {
  byId("batches-empty").hidden = batches.length > 0;
  list(byId("batches"), batches, (batch) => batch.batch_id, make, (item, batch) => {
    const [head, progress, note] = item.children;
    const ended = batch.completed + batch.failed + batch.cancelled;
    const total = batch.total ?? batch.expected;
    mark(head.lastElementChild, batch.state);
    progress.max = Math.max(1, total ?? batch.added);
    progress.value = ended;
    const parts = [`${count(ended)} of ${count(total ?? batch.added)}${total === null ? " so far" : ""}`];
    if (batch.failed) parts.push(`${count(batch.failed)} failed`);
    if (batch.cancelled) parts.push(`${count(batch.cancelled)} cancelled`);
    parts.push(`${age(now_ms - batch.created_ms)} old`);
    write(note, parts.join(" · "));
  });
}

function make(batch) {
  const name = batch.name ?? short(batch.batch_id.replace("batch-", ""));
  return node(
    "li",
    { title: batch.batch_id },
    node("div", { class: "head" }, node("strong", {}, name), node("span", { class: "pill" })),
    node("progress", { "aria-label": `Progress of batch ${name}` }),
    node("p", { class: "note" }),
  );
}
