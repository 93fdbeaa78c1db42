"""docs/glossary.md is the register of terms: what it names exists, and each term stands once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/glossary.md").read_text()
PACKAGES = ("producer", "worker", "gateway", "local", "cli")
ROWS = re.findall(r"^\| \*\*(.+?)\*\*.*? \| (.+?) \| ?(.*?) ?\|$", PAGE, re.M)


def test_each_term_has_one_row() -> None:
    """Red if a term is explained twice."""
    assert len(ROWS) > 40
    terms = Counter(term.lower() for term, _, _ in ROWS)
    assert not [term for term, count in terms.items() if count > 1]


def test_classes_that_it_names_exist() -> None:
    """Red if a class of the third column was renamed, and the register was not."""
    named = {name for _, _, code in ROWS for name in re.findall(r"`([A-Z]\w+)`", code)}
    assert named
    sources = [path.read_text() for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    classes = {name for text in sources for name in re.findall(r"^class (\w+)", text, re.M)}
    assert named <= classes
