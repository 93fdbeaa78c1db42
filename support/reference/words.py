"""What all pages are written with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def joined(parts: Iterable[str]) -> str:
    """A page of its parts, a blank line between two."""
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing where it has no rows."""
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines]) if lines else ""


def paragraphs(docstring: str) -> str:
    """A docstring as prose: its indented lines as code, double blanks gone."""
    text = re.sub(r"(?m)^\b$\n", "", docstring.strip())
    parts = re.split(r"\n\s*\n", text)
    return "\n\n".join(part if part.startswith("    ") else _unwrapped(part) for part in parts)


def _unwrapped(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text.strip())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
