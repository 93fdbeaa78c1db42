"""Translated pages have the blocks of their originals, word for word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from support.markdown import blocks_of, documents


def translations() -> Iterator[tuple[Path, Path]]:
    """Each original with its translation."""
    for path in documents():
        if ".ru." in path.name:
            yield path.with_name(path.name.replace(".ru.", ".")), path


def with_blocks_of(original: Path, translation: Path) -> str:
    """A translation with its original's blocks, as long as there are as many of them."""
    lines = translation.read_text().split("\n")
    pairs = list(zip(blocks_of(original), blocks_of(translation), strict=True))
    for ours, theirs in reversed(pairs):
        end = theirs.line + theirs.text.count("\n")
        lines[theirs.line - 1 : end] = [f"```{ours.language}", *ours.text.split("\n")[:-1]]
    return "\n".join(lines)
