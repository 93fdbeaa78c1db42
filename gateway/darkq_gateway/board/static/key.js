// The API key: requested when the gateway requires one, kept until the tab is closed.

import { byId, complain } from "./dom.js";

const NAME = "darkq-key";
const dialog = byId("key-dialog");
const input = byId("key");

let given; // resolves the promise of the calls that wait for a key
let waiting = null;

export const key = () => sessionStorage.getItem(NAME);

/** Wait for a key other than the refused one; all waiting calls share one dialog. */
export function anotherKey(refused) {
  if (key() && key() !== refused) return Promise.resolve();
  if (!waiting) {
    waiting = new Promise((resolve) => (given = resolve));
    ask(refused ? "The gateway does not accept this key." : null);
  }
  return waiting;
}

function ask(problem) {
  complain(byId("key-problem"), problem);
  if (!dialog.open) dialog.showModal();
  input.focus();
}

/** Let users enter, change and remove the key. `changed` is called after a change. */
export function offerKey(changed) {
  byId("key-button").addEventListener("click", () => ask(null));
  byId("key-forget").addEventListener("click", () => {
    sessionStorage.removeItem(NAME);
    input.value = "";
    dialog.close();
    changed();
  });
  byId("key-form").addEventListener("submit", (submission) => {
    submission.preventDefault();
    const text = input.value.trim();
    if (!/^[\x21-\x7e]+$/.test(text)) return complain(byId("key-problem"), "This is not an API key.");
    sessionStorage.setItem(NAME, text);
    input.value = "";
    dialog.close();
    if (waiting) {
      waiting = null;
      given();
    } else {
      changed();
    }
  });
}
