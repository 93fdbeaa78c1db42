"""CSV and TSV: the rows of a table, as lines of JSON with the columns' names.

One row is in memory at a time, and its length is limited: a quote that is not closed would
otherwise take the rest of the file for one cell.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

import msgspec

from darkq.batches.lines import BOM, MAX_LINE_BYTES, Text, find_other_format
from darkq.errors import InvalidLine
from darkq_cli.batch.formats.rows import list_names

_UNCLOSED = "perhaps a quote is not closed"


class Table:
    """A pass over a table, whose first row names the columns.

    Raises `InvalidLine` when that row is invalid. `columns` is empty if there is no row.
    """

    def __init__(self, pieces: Iterable[bytes], delimiter: str) -> None:
        # A limit of the module, for all readers of the process.
        csv.field_size_limit(MAX_LINE_BYTES)
        self._lines = _Lines(pieces)
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)
        _, header = self._next_row() or (0, [])
        self.columns = tuple(name.strip() for name in header)
        twice = [name for n, name in enumerate(self.columns) if name in self.columns[:n]]
        if twice:
            names = ", ".join(sorted({repr(name) for name in twice}))
            raise InvalidLine(1, "columns", f"two have the same name, {names}: rename one")

    def rows(self) -> Iterator[Text | InvalidLine]:
        """Yield the rows as lines of JSON. An error that hides where a row ends is the last."""
        while True:
            try:
                row = self._next_row()
            except InvalidLine as error:
                yield error
                return
            if row is None:
                return
            number, cells = row
            if len(cells) == len(self.columns):
                fields = dict(zip(self.columns, cells, strict=True))
                yield Text(number, msgspec.json.encode(fields))
            else:
                reason = f"has {len(cells)} cells; the columns are: {list_names(self.columns)}"
                yield InvalidLine(number, "row", reason)

    def _next_row(self) -> tuple[int, list[str]] | None:
        """Return the number of a row's first line, and its cells; None at the end."""
        while True:
            number = self._lines.start_row()
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                raise InvalidLine(number, "row", f"{error}; {_UNCLOSED}") from None
            if cells is None or cells:  # a blank line has no cells
                return None if cells is None else (number, cells)


class _Lines:
    """The lines of a file as `csv.reader` takes them: texts with their line ends."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._source = _split(pieces)
        self._number = 0
        self._row, self._row_bytes = 1, 0

    def start_row(self) -> int:
        """Count the length of a row from here, and return the number of its first line."""
        self._row, self._row_bytes = self._number + 1, 0
        return self._row

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._source)
        self._number += 1
        self._row_bytes += len(line)
        if self._number == 1:
            if other := find_other_format(line):
                raise self._build_error(other)
            line = line.removeprefix(BOM)
        if self._row_bytes > MAX_LINE_BYTES:
            raise self._build_error(f"is longer than {MAX_LINE_BYTES:,} bytes; {_UNCLOSED}")
        if b"\0" in line:
            raise self._build_error("holds NUL bytes: the file is damaged or no UTF-8")
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise self._build_error("is not UTF-8: save it as UTF-8") from None

    def _build_error(self, reason: str) -> InvalidLine:
        return InvalidLine(self._row, "row", reason)


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with their ends. One that exceeds the limit is cut: it is refused anyway."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield b"".join((*parts, end, b"\n"))
            parts.clear()
            size = 0
        parts.append(rest)
        size += len(rest)
        if size > MAX_LINE_BYTES:
            break
    if size:
        yield b"".join(parts)
