// Blocks of code, and buttons that copy.

import { button, node, write } from "./dom.js";

const SHOWN_MS = 1500;

/** Make a block of code in a fixed face, with its language and a button that copies it. */
export function codeBlock(code, language) {
  const head = node("div", { class: "code-head" }, node("span", {}, language || "code"), copyButton(() => code));
  const pre = node("pre", { tabindex: "0", role: "region", "aria-label": `Code: ${language || "text"}` });
  pre.append(node("code", {}, code));
  return node("div", { class: "code" }, head, pre);
}

/** Make a button that copies what `text` returns. */
export function copyButton(text) {
  return button("Copy", async (pressed) => {
    write(pressed, (await copy(text())) ? "Copied" : "Not copied");
    setTimeout(() => write(pressed, "Copy"), SHOWN_MS);
  });
}

/** Copy a text; return whether it was copied. A page without TLS has no `navigator.clipboard`. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = node("textarea", { class: "unseen", readonly: "" });
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
