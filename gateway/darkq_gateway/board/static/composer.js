// The form for a new job.

import { get, post, reason } from "./api.js";
import { byId, complain, offer } from "./dom.js";

const form = byId("composer");
const prompt = byId("prompt");
const model = byId("model");
const problem = byId("composer-problem");

/** Send prompts; `opened` is called with the id of each job. */
export function offerComposer(opened) {
  form.addEventListener("submit", (submission) => {
    submission.preventDefault();
    send(opened);
  });
  prompt.addEventListener("keydown", (press) => {
    if (press.key === "Enter" && (press.ctrlKey || press.metaKey)) form.requestSubmit();
  });
  model.addEventListener("focus", offerModels);
}

let sending = false;
let unsent = { text: "", key: "" }; // idempotency key of a prompt: sent again after an error, it is the same job

async function send(opened) {
  if (sending || !prompt.value.trim()) return;
  sending = true;
  form.setAttribute("aria-busy", "true");
  const order = { prompt: prompt.value, priority: byId("priority").value };
  if (model.value) order.model = model.value;
  const text = JSON.stringify(order);
  if (unsent.text !== text) unsent = { text, key: randomKey() };
  try {
    const { job_id } = await post("/jobs", order, { "Idempotency-Key": unsent.key });
    unsent = { text: "", key: "" };
    complain(problem, null);
    prompt.value = "";
    opened(job_id);
  } catch (error) {
    complain(problem, `Not sent: ${reason(error)}.`);
  } finally {
    sending = false;
    form.removeAttribute("aria-busy");
  }
}

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `board-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** Offer the available models; the selected one stays selected. */
export async function offerModels() {
  const served = await get("/v1/models").catch(() => null);
  if (served) offer(model, ["", ...served.data.map((each) => each.id)], "default model");
}
