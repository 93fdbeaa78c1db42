// Announces changes to screen readers: an answer sentence by sentence, not chunk by chunk.

import { byId, node } from "./dom.js";

const PAUSE_MS = 2000;
const MAX_CHARS = 600; // for a longer text only its length is announced

const region = byId("announcer");
let waiting = "";
let timer = null;

/** Announce a short text, after the waiting text. */
export function say(text) {
  flush(waiting.length);
  speak(text);
}

/** Add text of a running answer; each sentence is announced when it is complete. */
export function speakText(text) {
  waiting += text;
  timer ??= setTimeout(sayWhole, PAUSE_MS);
}

/** Discard the waiting text: it is not valid any more. */
export function hush() {
  waiting = "";
}

function sayWhole() {
  timer = null;
  const end = waiting.search(/[.!?:\n][^.!?:\n]*$/) + 1;
  flush(end || (waiting.length > MAX_CHARS ? waiting.length : 0));
  if (waiting) timer = setTimeout(sayWhole, PAUSE_MS);
}

function flush(chars) {
  const text = waiting.slice(0, chars).trim();
  waiting = waiting.slice(chars);
  if (text) speak(text.length > MAX_CHARS ? `${text.length} characters of text` : text);
}

function speak(text) {
  region.append(node("p", {}, text));
  while (region.childElementCount > 5) region.firstElementChild.remove();
}
