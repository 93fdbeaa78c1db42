"""Output on stdout: the exact text of an answer, JSON, and tables."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from darkq_cli.terminal import messages

if TYPE_CHECKING:
    from rich.text import Text

T = TypeVar("T")

Facts: TypeAlias = Mapping[str, str | int]


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

    def write_call(self, name: str, arguments: str) -> None:
        """Write a tool call on a line of its own."""
        self.write("\n" if self._open_line else "")
        self.write(f"{name}({arguments})\n")

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


def write_one(value: Any, text: str | Facts, **more: object) -> None:
    """Write one thing: a line of text, or facts in two columns; with `--json` the value."""
    if messages.as_json:
        write_json(value, **more)
    elif isinstance(text, str):
        write_line(text)
    else:
        write_facts(text)


def write_facts(facts: Facts) -> None:
    """Write names and values in two columns. On a terminal, long values are wrapped."""
    width = max(map(len, facts))
    limit = _width()
    for name, value in facts.items():
        text = f"{value:,}" if isinstance(value, int) else messages.replace_controls(value)
        line = f"{name:<{width}}  {text}"
        if limit is None:
            write_line(line)
            continue
        indent = " " * (width + len(_GAP))
        lines = wrap(line, max(len(indent) + 20, limit), subsequent_indent=indent)
        write_line("\n".join(lines))


class Cell(str):
    """A cell of a table in a style of rich, such as `red`."""

    style: str

    def __new__(cls, text: str, style: str) -> Self:
        cell = super().__new__(cls, text)
        cell.style = style
        return cell


def write_list(
    items: Sequence[T],
    headings: Sequence[str],
    build_row: Callable[[T], Sequence[str]],
    build_note: Callable[[T], str] = lambda _: "",
) -> None:
    """Write a table with a row for each item; with `--json` one object for each."""
    if messages.as_json:
        for item in items:
            write_json(item)
    elif items:
        write_table(headings, map(build_row, items), map(build_note, items))


def fit(brief: str, full: str) -> str:
    """Return the brief text if tables have a width to fit: that of a terminal, or of COLUMNS."""
    return full if _width() is None else brief


def write_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()
) -> None:
    """Write a table: one line for each row, and below it the row's note, indented.

    On a terminal, or if COLUMNS is set, lines fit the width: the last columns are cut, notes are
    wrapped. The first column has ids to copy, so it is never cut. A pipe gets everything.
    """
    from rich.text import Text

    cells: list[list[str]] = [[_clean(cell) for cell in row] for row in rows]
    table = [list(headings), *cells]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    is_number = [all(map(_NUMBER.fullmatch, column[1:])) for column in zip(*table, strict=True)]
    limit = _width()
    if limit is not None:
        _narrow(widths, limit)
    console = messages.stdout_console()
    lines = [_format_row(row, widths, is_number) for row in table]
    lines[0].stylize("bold")
    console.print(lines[0])
    for line, note in zip_longest(lines[1:], notes):
        console.print(line)
        for text in (note or "").splitlines():
            for part in _wrap_note(messages.replace_controls(text), limit):
                console.print(Text(part, "dim"))


_GAP = "  "
_LEAST_CHARS = 5
_INDENT = "    "
_NUMBER = re.compile(r"[0-9.,]+( s)?|-?")


def _width() -> int | None:
    console = messages.stdout_console()
    has_columns = os.environ.get("COLUMNS", "").isdecimal()
    return console.width if console.is_terminal or has_columns else None


def _narrow(widths: list[int], limit: int) -> None:
    """Narrow the widest columns in place, the first one excepted, until the row fits."""
    while sum(widths) + len(_GAP) * (len(widths) - 1) > limit:
        # Of equally wide columns the last one: the important ones come first.
        number = max(range(1, len(widths)), key=lambda n: (widths[n], n), default=0)
        if number == 0 or widths[number] <= _LEAST_CHARS:
            return
        widths[number] -= 1


def _clean(cell: str) -> Cell:
    text = " ".join(messages.replace_controls(cell).split())
    return Cell(text, cell.style if isinstance(cell, Cell) else "")


def _format_row(row: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> Text:
    from rich.text import Text

    cells = []
    for cell, width, right in zip(row, widths, is_number, strict=True):
        text = cell if len(cell) <= width else cell[: width - 1] + "…"
        style = cell.style if isinstance(cell, Cell) else ""
        cells.append(Text(text.rjust(width) if right else text.ljust(width), style))
    line = Text(_GAP).join(cells)
    line.rstrip()
    return line


def _wrap_note(text: str, limit: int | None) -> list[str]:
    if limit is None:
        return [(_INDENT + text).rstrip()]
    width = max(20, limit)
    return wrap(
        text, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
    )


reader_has_left = False
"""Set when the reader of stdout has closed it, as `head` does when it has enough."""


def _write(text: str) -> None:
    global reader_has_left  # noqa: PLW0603  a process has one stdout
    try:
        # UTF-8 whatever the locale is, so that a text is the same in every environment.
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        reader_has_left = True
        raise
