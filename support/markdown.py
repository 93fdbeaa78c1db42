"""The fenced blocks of a document, and what it says of them to its test.

A remark to the test is an HTML comment, which no reader sees, right before a fence:

    <!-- not run: why -->       it cannot run here
    <!-- save as: app.py -->    write it into the working folder
    <!-- exit code: 1 -->       what its commands end with
    <!-- given: id=… -->        what is run before it: shell, or Python before a block of Python

Anywhere in a document, `<!-- beside: gateway -->` asks for what is to run beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from support.repository import files_of

ROOT = Path(__file__).parents[1]

REMARKS = ("not run", "save as", "exit code", "given")

_REMARK = re.compile(r"<!-- ([a-z ]+):\s(.*?)\s?-->", re.DOTALL)
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<language>\w*) *$")
_HEADING = re.compile(r"^#{1,6} +(.*?) *$")


class Block(NamedTuple):
    """A fenced block: where it begins, what it is, what the document says of it."""

    path: Path
    line: int
    language: str
    text: str
    remarks: Mapping[str, str]

    @property
    def place(self) -> str:
        """`docs/gateway.md:17`."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def documents() -> list[Path]:
    """The documents whose blocks are run: the README, and all below docs/."""
    readmes = [path for path in files_of(ROOT, "README*.md") if path.parent == ROOT]
    return [*readmes, *files_of(ROOT / "docs", "*.md")]


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a document, in order."""
    return list(_blocks(path, path.read_text().split("\n")))


def _blocks(path: Path, lines: list[str]) -> Iterator[Block]:
    before: list[str] = []
    numbered = iter(enumerate(lines, 1))
    for number, line in numbered:
        fence = _FENCE.match(line)
        if fence is None:
            assert not line.lstrip().startswith("```"), f"{path}:{number}: {line}"
            before.append(line)
            continue
        text = []
        for _, inner in numbered:
            if inner.strip() == fence["ticks"]:
                break
            text.append(inner.removeprefix(fence["indent"]) + "\n")
        else:
            raise AssertionError(f"{path}:{number}: a fence without an end")
        yield Block(path, number, fence["language"], "".join(text), _remarks(before))
        before = []


def _remarks(before: list[str]) -> dict[str, str]:
    """The comments that stand right before a fence."""
    found: dict[str, str] = {}
    rest = "\n".join(before).rstrip()
    while rest.endswith("-->"):
        start = rest.rindex("<!--")
        match = _REMARK.fullmatch(rest[start:])
        if match is None:
            break
        found[match[1]] = match[2]
        rest = rest[:start].rstrip()
    return {name: text for name, text in found.items() if name != "beside"}


def beside(path: Path) -> set[str]:
    """What a document asks to be run beside it."""
    match = re.search(r"<!-- beside: ([a-z, ]+) -->", path.read_text())
    return set(match[1].split(", ")) if match else set()


def prose_of(path: Path) -> str:
    """A document without its fenced blocks and comments."""
    text = re.sub(r"^( *)(```+).*?^\1\2 *$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def headings_of(path: Path) -> list[str]:
    """The headings, in order, as they stand."""
    lines = prose_of(path).split("\n")
    return [match[1] for line in lines if (match := _HEADING.match(line))]


def anchor(heading: str) -> str:
    """The fragment under which a heading is found, as GitHub makes it."""
    words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower())
    return words.replace(" ", "-")
