"""The table of `docs/openai.md`: what becomes of each parameter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from darkq.openai.body import IRRELEVANT, NAMES, NEUTRAL
from darkq.protocol.options import OPTIONS

DOCS = Path(__file__).parents[4] / "docs/openai.md"
READ = (
    *("model", "messages", "input", "instructions", "metadata"),
    *("stream", "stream_options", "background"),
)


def table() -> str:
    """The table as the code has it."""
    values = [
        f"`{name}` {' or '.join(f'`{json.dumps(value)}`' for value in values)}"
        for name, values in sorted(NEUTRAL.items())
        if name not in READ and name not in OPTIONS
    ]
    rows = (
        ("honoured", _names(READ)),
        ("honoured where the upstream knows it", _names([*OPTIONS, *NAMES])),
        ("taken; changes nothing about the answer", _names(IRRELEVANT - set(READ))),
        ("taken with the value that is the case anyway", ", ".join(values)),
        ("refused with 400, by name", "every other parameter, and every other value"),
    )
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {names} |" for what, names in rows)])


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def test_the_table_says_what_the_code_does() -> None:
    assert table() in DOCS.read_text()
