// Blocks of Markdown: headings, lists, code, tables, quotes, rules, paragraphs. It reads lines and makes nodes.
// A text may be unfinished: an open fence is code to the end, and a table is one from its first row on.

import { codeBlock } from "./code.js";
import { node } from "./dom.js";
import { inline } from "./inline.js";

const MAX_DEPTH = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( {1,4}|$)/;
const DELIMITERS = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const PARTIAL_DELIMITERS = /^ {0,3}\|[\s|:-]*$/;
const CODE_INDENT = "    ";

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;

/** Return the blocks of lines: `{start, make}`, where `start` is the number of the first line. */
export function parse(lines, isOpen = false, depth = 0) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { end, make } = readBlock(lines, at, isOpen, depth);
    blocks.push({ start: at, make });
    at = end;
  }
  return blocks;
}

const render = (lines, isOpen, depth) => parse(lines, isOpen, depth).map((block) => block.make());

function readBlock(lines, at, isOpen, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return readFence(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return { end: at + 1, make: () => makeHeading(heading) };
  if (RULE.test(line)) return { end: at + 1, make: () => node("hr") };
  if (depth < MAX_DEPTH && QUOTE.test(line)) return readQuote(lines, at, isOpen, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return readList(lines, at, isOpen, depth);
  if (isTable(lines, at, isOpen)) return readTable(lines, at);
  if (line.startsWith(CODE_INDENT)) return readIndented(lines, at);
  return readParagraph(lines, at, isOpen);
}

function readFence(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  const indent = indentOf(lines[at]);
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, indentOf(line))));
  return { end: end + 1, make: () => codeBlock(code.join("\n"), language) };
}

function readIndented(lines, at) {
  let end = at;
  while (end < lines.length && (isBlank(lines[end]) || lines[end].startsWith(CODE_INDENT))) end += 1;
  const code = lines.slice(at, end).map((line) => line.slice(CODE_INDENT.length));
  return { end, make: () => codeBlock(code.join("\n").trimEnd(), "") };
}

function makeHeading([, signs, text]) {
  const level = Math.min(6, signs.length + 3); // the page has the levels above
  return node(`h${level}`, { class: `level-${signs.length}` }, ...inline(text ?? ""));
}

function readQuote(lines, at, isOpen, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { end, make: () => node("blockquote", {}, ...render(inside, isOpen && end === lines.length, depth + 1)) };
}

function readList(lines, at, isOpen, depth) {
  const [, indent, marker] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(marker);
  const kind = marker.at(-1);
  const items = [];
  let isLoose = false;
  let end = at;
  while (end < lines.length) {
    const found = ITEM.exec(lines[end]);
    if (!found || found[1].length > indent.length + 1 || found[2].at(-1) !== kind || RULE.test(lines[end])) break;
    const item = readItem(lines, end, found);
    items.push(item.lines);
    isLoose ||= item.isLoose || (item.hasGap && ITEM.test(lines[item.end] ?? ""));
    end = item.end;
  }
  const make = () => {
    const list = node(ordered ? "ol" : "ul");
    if (ordered && marker.slice(0, -1) !== "1") list.setAttribute("start", marker.slice(0, -1));
    list.append(...items.map((item) => makeItem(item, isOpen && end >= lines.length, depth, isLoose)));
    return list;
  };
  return { end, make };
}

/** Read an item: what follows its marker, and lines that are indented or continue its paragraph. */
function readItem(lines, at, [marker, indent]) {
  const width = marker.length;
  const inside = [lines[at].slice(width)];
  let end = at + 1;
  let lastFilled = at;
  let isLoose = false;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (isBlank(line)) {
      inside.push("");
      continue;
    }
    const isInside = indentOf(line) >= Math.min(width, indent.length + 2);
    const continues = lastFilled === end - 1 && !startsBlock(line) && !ITEM.test(line);
    if (!isInside && !continues) break;
    isLoose ||= lastFilled < end - 1 && isInside && !ITEM.test(line.trimStart()) && !FENCE.test(line.trimStart());
    inside.push(line.slice(Math.min(width, indentOf(line))));
    lastFilled = end;
  }
  const hasGap = lastFilled < end - 1;
  return { lines: inside, end, isLoose, hasGap };
}

function makeItem(lines, isOpen, depth, isLoose) {
  const task = /^\[([ xX])\] +/.exec(lines[0]);
  const inside = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines;
  const children = render(inside, isOpen, depth + 1);
  const [first] = children;
  if (!isLoose && first?.tagName === "P") children.splice(0, 1, ...first.childNodes);
  if (!task) return node("li", {}, ...children);
  const box = node("input", { type: "checkbox", disabled: "", "aria-label": task[1] === " " ? "to do" : "done" });
  box.checked = task[1] !== " ";
  return node("li", { class: "task" }, box, ...children);
}

const startsBlock = (line) =>
  [FENCE, HEADING, RULE, QUOTE].some((pattern) => pattern.test(line)) || /^ *(?:[-*+]|1[.)]) +\S/.test(line);

function isTable(lines, at, isOpen) {
  if (!lines[at].includes("|")) return false;
  const next = lines[at + 1];
  const isLast = at + 2 >= lines.length;
  if (isOpen && /^ {0,3}\|/.test(lines[at]) && (next === undefined || (isLast && PARTIAL_DELIMITERS.test(next)))) return true;
  return next !== undefined && next.includes("-") && DELIMITERS.test(next) && cellsOf(next).length === cellsOf(lines[at]).length;
}

function cellsOf(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function readTable(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].includes("|") && !isBlank(lines[end])) end += 1;
  return { end, make: () => makeTable(cellsOf(lines[at]), cellsOf(lines[at + 1] ?? ""), lines.slice(at + 2, end)) };
}

function makeTable(names, delimiters, rows) {
  const classes = names.map((_, column) => (/^:?-+:$/.test(delimiters[column] ?? "") ? { class: "number" } : {}));
  const row = (cells, tag) =>
    node("tr", {}, ...names.map((_, column) => node(tag, classes[column], ...inline(cells[column] ?? ""))));
  const body = node("tbody", {}, ...rows.map((line) => row(cellsOf(line), "td")));
  const table = node("table", {}, node("thead", {}, row(names, "th")), body);
  return node("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

function readParagraph(lines, at, isOpen) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !startsBlock(lines[end]) && !isTable(lines, end, isOpen)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return { end, make: () => node("p", {}, ...inline(text)) };
}
