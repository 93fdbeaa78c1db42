"""The table of `docs/openai.md`: what becomes of each parameter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from darkq.openai.body import IRRELEVANT, NAMES, NEUTRAL
from darkq.openai.response_body import REFUSALS
from darkq.protocol.options import NOT_TAKEN, OPTIONS, WITHOUT_EFFECT

DOCS = Path(__file__).parents[4] / "docs/openai.md"
READ = (
    *("model", "messages", "input", "instructions", "metadata", "store"),
    *("stream", "stream_options", "background", "previous_response_id"),
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
        ("checked, and given to the upstream if it supports it", _names([*OPTIONS, *NAMES])),
        ("given to an upstream that takes it; changes nothing about the answer",
         _names(WITHOUT_EFFECT)),
        ("left out with the value that is the case anyway", ", ".join(values)),
        ("refused with 400, by name", _names((NOT_TAKEN | set(REFUSALS)) - IRRELEVANT - set(READ))),
        ("given unchanged to an OpenAI-compatible upstream, which judges it; a service of text, "
         "such as DarkAI, refuses it", "every other parameter"),
    )  # fmt: skip
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {names} |" for what, names in rows)])


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def test_the_table_says_what_the_code_does() -> None:
    assert table() in DOCS.read_text()
