// The prompt of the open job: of one message its text, of several each with its role.

import { get } from "./api.js";
import { copyButton } from "./code.js";
import { button, node } from "./dom.js";

const CLAMPED_CHARS = 480;

/** Show the prompt of a job in a container. */
export async function showPrompt(container, jobId, signal) {
  const { messages, is_whole, is_hidden } = await get(`/board/jobs/${jobId}/prompt`);
  if (signal.aborted) return;
  container.hidden = false;
  if (!messages.length) return void container.replaceChildren(node("p", { class: "note" }, absence(is_hidden)));
  const many = messages.length > 1;
  container.replaceChildren(...messages.map((message) => block(message, many)));
  if (!is_whole && messages.at(-1).text.length >= 1000) {
    container.append(node("p", { class: "note" }, "Only the beginning of the prompt is kept after the end of the job."));
  }
}

function absence(isHidden) {
  return isHidden ? "This gateway shows no prompts (DARKQ_GATEWAY_BOARD_PROMPTS)." : "The prompt was deleted when the job ended (DARKQ_RESULTS_KEEP_PROMPTS).";
}

function block({ role, text }, many) {
  const box = node("div", { class: "said", dir: "auto" }, text);
  const title = many || role !== "user" ? role : "Prompt";
  const head = node("div", { class: "head" }, node("h3", {}, title), node("div", { class: "tools" }, copyButton(() => text)));
  const message = node("section", { class: `message ${role}`, "aria-label": title }, head, box);
  if (text.length > CLAMPED_CHARS || text.split("\n").length > 8) fold(box, head.lastElementChild);
  return message;
}

function fold(box, tools) {
  box.classList.add("clamped");
  const turn = (pressed) => {
    const isClamped = box.classList.toggle("clamped");
    pressed.textContent = isClamped ? "Show all" : "Show less";
    pressed.setAttribute("aria-expanded", String(!isClamped));
  };
  tools.prepend(button("Show all", turn, { "aria-expanded": "false" }));
}
