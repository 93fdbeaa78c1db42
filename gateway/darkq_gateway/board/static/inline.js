// The inline part of Markdown: code, emphasis, links. Makes nodes, never HTML text. What is not closed stays
// text, and each kind of mark is searched to the end of a text once at most, so long texts take linear time.

import { node } from "./dom.js";

const MAX_DEPTH = 8;
const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const LINK = /!?\[((?:[^[\]\\]|\\.|\[[^[\]]{0,500}\]){0,1000})\]\(\s{0,9}<?([^\s<>()]{0,2000}(?:\([^\s()]{0,500}\)[^\s()]{0,500}){0,9})>?(?:\s{1,9}"[^"]{0,500}")?\s{0,9}\)/y;
const AUTOLINK = /<(https?:\/\/[^\s<>]{1,2000})>/y;
const BARE = /https?:\/\/[^\s<>"`]{0,2000}[^\s<>"`.,;:!?'*_~)\]]/y;
const MARKS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };

/** Return the nodes of a text. */
export function inline(text, depth = 0) {
  const nodes = [];
  const unclosed = new Set();
  let plain = "";
  const put = (element) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(element);
  };
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, next);
    at = next;
    if (at === text.length) break;
    const found = markup(text, at, depth, unclosed);
    if (typeof found.made === "string") plain += found.made;
    else put(found.made);
    at = found.end;
  }
  if (plain) nodes.push(plain);
  return nodes;
}

/** Return what is made of the markup at a position, and where it ends. */
function markup(text, at, depth, unclosed) {
  const sign = text[at];
  if (sign === "\\") return escaped(text, at);
  if (sign === "\n") return { made: node("br"), end: at + 1 };
  if (sign === "`") return codeSpan(text, at, unclosed);
  if (sign === "[" || (sign === "!" && text[at + 1] === "[")) return link(text, at, depth);
  if (sign === "<" || sign === "h") return address(text, at);
  const mark = MARKS[text.slice(at, at + 2)] ? text.slice(at, at + 2) : sign;
  return MARKS[mark] ? emphasis(text, at, mark, depth, unclosed) : { made: sign, end: at + 1 };
}

function escaped(text, at) {
  const next = text[at + 1] ?? "";
  if (next === "\n") return { made: node("br"), end: at + 2 };
  return ESCAPABLE.test(next) ? { made: next, end: at + 2 } : { made: "\\", end: at + 1 };
}

function codeSpan(text, at, unclosed) {
  let end = at;
  while (text[end] === "`") end += 1;
  const fence = text.slice(at, end);
  let close = unclosed.has(fence) ? -1 : text.indexOf(fence, end);
  while (close >= 0 && (text[close + fence.length] === "`" || text[close - 1] === "`")) {
    while (text[close] === "`") close += 1;
    close = text.indexOf(fence, close);
  }
  if (close < 0) {
    unclosed.add(fence);
    return { made: fence, end };
  }
  const code = text.slice(end, close).replaceAll("\n", " ");
  const trimmed = code.trim() && code.startsWith(" ") && code.endsWith(" ") ? code.slice(1, -1) : code;
  return { made: node("code", {}, trimmed), end: close + fence.length };
}

function emphasis(text, at, mark, depth, unclosed) {
  const end = at + mark.length;
  const literal = { made: mark, end };
  const opens = /\S/.test(text[end] ?? " ") && !(mark[0] === "_" && isWord(text[at - 1]));
  if (!opens || depth >= MAX_DEPTH || unclosed.has(mark)) return literal;
  const close = closing(text, end, mark);
  if (close < 0) {
    unclosed.add(mark);
    return literal;
  }
  const inside = inline(text.slice(end, close), depth + 1);
  return { made: node(MARKS[mark], {}, ...inside), end: close + mark.length };
}

/** Return where a mark closes, or -1; code spans and escapes are skipped. */
function closing(text, from, mark) {
  for (let at = from; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "`") at = afterCode(text, at) - 1;
    else if (text[at] === mark[0]) {
      let run = at;
      while (text[run] === mark[0]) run += 1;
      const fits = mark.length === 1 ? (run - at) % 2 === 1 : run - at >= 2;
      const follows = at > from && /\S/.test(text[at - 1]);
      const ends = !(mark[0] === "_" && isWord(text[run]));
      if (fits && follows && ends) return run - mark.length;
      at = run - 1;
    }
  }
  return -1;
}

function afterCode(text, at) {
  let end = at;
  while (text[end] === "`") end += 1;
  const close = text.indexOf(text.slice(at, end), end);
  return close < 0 ? end : close + end - at;
}

const isWord = (sign) => sign !== undefined && /[\p{L}\p{N}_]/u.test(sign);

function link(text, at, depth) {
  LINK.lastIndex = at;
  const found = LINK.exec(text);
  if (!found || depth >= MAX_DEPTH) return { made: text[at], end: at + 1 };
  const label = inline(found[1], depth + 1);
  return { made: anchor(found[2], label.length ? label : [found[2]]), end: at + found[0].length };
}

function address(text, at) {
  const pattern = text[at] === "<" ? AUTOLINK : BARE;
  pattern.lastIndex = at;
  const found = pattern.exec(text);
  if (!found) return { made: text[at], end: at + 1 };
  const url = found[1] ?? found[0];
  return { made: anchor(url, [url]), end: at + found[0].length };
}

/** Make a link to another site. Any other scheme than http and https stays text. */
export function anchor(url, label) {
  const parsed = URL.canParse(url) ? new URL(url) : null;
  if (!parsed || !["http:", "https:"].includes(parsed.protocol)) return node("span", {}, ...label);
  const attributes = { href: parsed.href, rel: "noopener noreferrer nofollow", target: "_blank" };
  return node("a", attributes, ...label);
}
