"""What goes to stdout: text exact to the byte, JSON, tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from darkq_cli.terminal import messages


class Answer:
    """An answer's text on stdout, each piece as it comes.

    Into a pipe or a file go the text's bytes and nothing else. A terminal gets no control
    characters, which an upstream could use to command it, and a line end after the last word.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._open_line = False

    def write(self, text: str) -> None:
        """Write a piece. Raises `BrokenPipeError` when nobody reads any more."""
        if text:
            self._open_line = not text.endswith("\n")
            _put(messages.harmless(text) if self.is_terminal else text)

    def end_line(self) -> None:
        """Begin a new line on a terminal, unless it is one."""
        if self.is_terminal and self._open_line:
            _put("\n")
            self._open_line = False


def write_line(text: str) -> None:
    """Write one line."""
    _put(text + "\n")


def write_json(value: Any) -> None:
    """Write a value as one line of JSON."""
    import msgspec

    _put(msgspec.json.encode(value).decode() + "\n")


def write_facts(facts: Mapping[str, str]) -> None:
    """Write names and what they stand for, in two columns."""
    width = max(map(len, facts))
    for name, value in facts.items():
        write_line(f"{name:<{width}}  {messages.harmless(value)}")


def _put(text: str) -> None:
    # Bytes, since the text must not depend on the locale.
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
