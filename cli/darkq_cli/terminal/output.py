"""Output on stdout: the exact text of an answer, JSON, and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from darkq_cli.terminal import messages

T = TypeVar("T")


class TextOutput:
    """Writes the text of an answer to stdout, piece by piece.

    A pipe or a file receives exactly the bytes of the text. A terminal receives no control
    characters, because an upstream could use them to send commands to it, and a final line end.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._open_line = False

    def write(self, text: str) -> None:
        """Write a piece. Raises `BrokenPipeError` when the reader of a pipe has closed it."""
        if text:
            self._open_line = not text.endswith("\n")
            _write(messages.replace_controls(text) if self.is_terminal else text)

    def end_line(self) -> None:
        """On a terminal, end the line if it is open."""
        if self.is_terminal and self._open_line:
            _write("\n")
            self._open_line = False


def write_line(text: str) -> None:
    """Write one line."""
    _write(text + "\n")


def write_json(value: Any, **more: object) -> None:
    """Write a value as one line of JSON; `more` are further fields of the object."""
    import msgspec

    if more:
        value = {**msgspec.to_builtins(value), **more}
    _write(msgspec.json.encode(value).decode() + "\n")


def write_facts(facts: Mapping[str, str]) -> None:
    """Write names and values in two columns."""
    width = max(map(len, facts))
    for name, value in facts.items():
        write_line(f"{name:<{width}}  {messages.replace_controls(value)}")


def write_list(
    items: Sequence[T],
    headings: Sequence[str],
    build_row: Callable[[T], Sequence[str]],
    *,
    as_json: bool,
) -> None:
    """Write one JSON object for each item, or a table with a row for each."""
    if as_json:
        for item in items:
            write_json(item)
    elif items:
        write_table(headings, map(build_row, items))


def write_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table. The first column holds ids to copy, so it is never wrapped."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(messages.replace_controls, row))
    messages.stdout_console().print(table)


def _write(text: str) -> None:
    # UTF-8 whatever the locale is, so that a text is the same in every environment.
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
