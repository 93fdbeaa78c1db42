"""Splits the bytes of a batch's input into lines. No I/O.

Byte order marks at the beginning of any line (of joined files) and the line ends of any system are
accepted. A file that is no UTF-8 text is refused as a whole, at its first line, with a remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from darkq.batches.lines import MAX_LINE_BYTES
from darkq.errors import InvalidLine

BOM = b"\xef\xbb\xbf"
_NUL_REASON = "holds NUL bytes: the file is damaged or no UTF-8; save it as UTF-8"
_LOOKED_AT_BYTES = 1 << 10
_OTHERS = (
    (re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff"), "UTF-32", "save it as UTF-8"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16", "save it as UTF-8"),
    (re.compile(rb"\x1f\x8b"), "packed with gzip", "unpack it first"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "packed with zstd", "unpack it first"),
    (re.compile(rb"\xfd7zXZ\0"), "packed with xz", "unpack it first"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "packed with bzip2", "unpack it first"),
    (re.compile(rb"PK\x03\x04"), "a zip archive or a spreadsheet", "export it as JSON lines"),
)


class Text(NamedTuple):
    """A line that is not blank, without its line end. `number` counts all lines, from 1."""

    number: int
    text: bytes


class InputLines:
    """Splits one input into lines. Keeps at most one line, of a bounded length."""

    def __init__(self) -> None:
        self._number = 0
        self._parts: list[bytes] = []  # of the line that has not ended
        self._bytes = 0
        self._refused = False

    def feed(self, data: bytes) -> Iterator[Text | InvalidLine]:
        """Yield the lines that end in this piece, or an error instead of an invalid line."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            yield from self._line()
        self._keep(rest)

    def end(self) -> Iterator[Text | InvalidLine]:
        """Yield the last line, if it has no line end."""
        if self._bytes:
            yield from self._line()

    def _keep(self, part: bytes) -> None:
        self._bytes += len(part)
        if self._bytes <= MAX_LINE_BYTES:
            self._parts.append(part)

    def _line(self) -> Iterator[Text | InvalidLine]:
        text, size = b"".join(self._parts), self._bytes
        self._parts.clear()
        self._bytes = 0
        self._number += 1
        if self._refused:
            return
        if self._number == 1 and (reason := find_other_format(text)):
            self._refused = True
            yield self._wrong(reason)
        elif size > MAX_LINE_BYTES:
            yield self._wrong(f"is longer than {MAX_LINE_BYTES:,} bytes")
        elif b"\0" in text:
            yield self._wrong(_NUL_REASON)
        else:
            while text.startswith(BOM):
                text = text.removeprefix(BOM)
            if text.strip(b" \t\r"):
                yield Text(self._number, text.rstrip(b"\r"))

    def _wrong(self, reason: str) -> InvalidLine:
        return InvalidLine(self._number, "line", reason, "invalid_json_line")


def find_other_format(first_line: bytes) -> str:
    """Return the format of a file that is no UTF-8 text, with a remedy; "" if it may be one."""
    for pattern, kind, remedy in _OTHERS:
        if pattern.match(first_line):
            return f"the file is {kind}: {remedy}"
    head = first_line[:_LOOKED_AT_BYTES]
    nuls = [n for n, byte in enumerate(head) if byte == 0]
    # Western letters in UTF-16: each second byte is 0, on one side.
    if 4 * len(nuls) > len(head) > 1 and len({n % 2 for n in nuls}) == 1:
        return "the file is UTF-16: save it as UTF-8"
    return ""
