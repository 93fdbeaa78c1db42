"""The lines of an input, plain or compressed with gzip or zstd, and their check.

The first bytes tell the compression. One line is in memory at a time and its length is limited, so
the file can have any size. The whole input is checked before the first line is sent, so a mistake
on the last line costs nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

from darkq import Settings
from darkq.batches.feed import with_custom_id
from darkq.batches.lines import InputLines, Line, Text
from darkq.errors import InvalidLine
from darkq.openai.body import CHAT, Endpoint
from darkq.protocol.validation import show_name
from darkq_cli.batch.formats.output import OutputFormat
from darkq_cli.batch.formats.rows import (
    DELIMITERS,
    InputFormat,
    LineFormat,
    list_names,
    read_fields,
)
from darkq_cli.batch.formats.table import Table
from darkq_cli.terminal.problems import Problem, require, wrong_usage

_READ_BYTES = 1 << 16
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_STEP_BYTES = 1 << 10
"""Small, because this much can decompress to 32 MB."""


class Fingerprint(NamedTuple):
    """Identifies the content of an input: size and digest of the decompressed bytes."""

    size: int
    sha256: str


class InputReader:
    """One pass over an input. Its properties refer to the bytes read so far."""

    def __init__(self, name: str, stream: IO[bytes], compressed: IO[bytes]) -> None:
        self._name = name
        self._stream = stream
        self._compressed = compressed
        self._hash = hashlib.sha256()
        self._size = 0
        self.columns: tuple[str, ...] = ()
        """The columns of a table, once its rows are read."""

    @property
    def position(self) -> int:
        """How many bytes of the file were read, before decompression."""
        return self._compressed.tell() if self._compressed.seekable() else self._size

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self._size, self._hash.hexdigest())

    def lines(self, format_: InputFormat) -> Iterator[Text | InvalidLine]:
        """Yield the lines that are not blank, and an error in place of an invalid one.

        Rows of a table are yielded as lines of JSON. Raises `Problem` for a damaged file, and for a
        table without a column that is asked for.
        """
        if format_.is_table:
            yield from self._rows(format_)
            return
        lines = InputLines()
        while piece := self._read():
            yield from lines.feed(piece)
        yield from lines.end()

    def _rows(self, format_: InputFormat) -> Iterator[Text | InvalidLine]:
        try:
            table = Table(iter(self._read, b""), DELIMITERS[format_.kind])
        except InvalidLine as error:
            yield error
            return
        self.columns = table.columns
        if table.columns:
            format_.check_columns(self._name, table.columns)
            yield from table.rows()

    def read_to_end(self) -> None:
        """Read the rest, for the fingerprint."""
        while self._read():
            pass

    def _read(self) -> bytes:
        try:
            piece = self._stream.read(_READ_BYTES)
        except (EOFError, gzip.BadGzipFile, zlib.error, _BadZstd):
            reason = f"{self._name} is damaged, or not compressed as its name says"
            raise wrong_usage(reason) from None
        except OSError as error:
            raise build_read_problem(self._name, error) from None
        self._hash.update(piece)
        self._size += len(piece)
        return piece


@contextmanager
def open_input(path: Path, name: str = "") -> Iterator[InputReader]:
    """Open a file for one pass. Raises `Problem` with `name` when it cannot be read."""
    name = name or str(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise build_read_problem(name, error) from None
    with file, _decompress(path, name, file) as stream:
        yield InputReader(name, stream, file)


def build_read_problem(name: str, error: OSError) -> Problem:
    return wrong_usage(f"cannot read {name}: {error.strerror}")


def _decompress(path: Path, name: str, file: io.BufferedReader) -> IO[bytes]:
    try:
        head = file.peek(len(_ZSTD))[: len(_ZSTD)]
    except OSError as error:
        raise build_read_problem(name, error) from None
    suffix = path.suffix.lower()
    if head.startswith(_GZIP) or (suffix == ".gz" and head != _ZSTD):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if head == _ZSTD or suffix == ".zst":
        require("zstd")
        return io.BufferedReader(_ZstdStream(file), _READ_BYTES)
    return file


class _BadZstd(Exception):
    pass


class _ZstdStream(io.RawIOBase):
    """Decompresses all frames. `zstandard`'s own reader accepts a truncated file."""

    def __init__(self, file: BinaryIO) -> None:
        from zstandard import ZstdDecompressor

        self._file = file
        self._decompressor = ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._begun = False
        self._compressed = self._plain = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        while not self._plain:
            if not self._step():
                return 0
        size = min(len(view), len(self._plain))
        view[:size], self._plain = self._plain[:size], self._plain[size:]
        return size

    def _step(self) -> bool:
        """Decompress a little more. Return False at the end of the file."""
        from zstandard import ZstdError

        compressed = self._compressed or self._file.read(_ZSTD_STEP_BYTES)
        self._compressed = b""
        if not compressed:
            if self._begun:
                raise _BadZstd
            return False
        try:
            self._plain = self._frame.decompress(compressed)
        except ZstdError:
            raise _BadZstd from None
        self._begun = not self._frame.eof
        if self._frame.eof:
            self._compressed = self._frame.unused_data
            self._frame = self._decompressor.decompressobj()
        return True


MAX_ERRORS_SHOWN = 10
_REPORT_EVERY_LINES = 1000


class CheckedInput(NamedTuple):
    """The facts about a valid input. `lines` counts the lines that are not blank.

    `columns` are those of a table, or of the lines that are written as one.
    """

    lines: int
    columns: tuple[str, ...]
    endpoint: Endpoint
    fingerprint: Fingerprint


def check(
    path: Path,
    name: str,
    format_: LineFormat,
    output: OutputFormat,
    report: Callable[[int], object],
) -> CheckedInput:
    """Check all lines of an input. `report` is called with the bytes of the file read so far.

    Raises `Problem` with `name` and the first mistakes.
    """
    with open_input(path, name) as source, closing(_Checker(format_, output)) as checker:
        for count, text in enumerate(source.lines(format_.input)):
            checker.check(text)
            if count % _REPORT_EVERY_LINES == 0:
                report(source.position)
        report(source.position)
        return checker.build_result(name, source)


class _Checker:
    """Checks line after line: that each is valid, that ids are unique, and that columns fit."""

    def __init__(self, format_: LineFormat, output: OutputFormat) -> None:
        self.lines = 0
        self._max_prompt_bytes = Settings.load().max_prompt_bytes
        self._format = format_
        self._output = output
        self._columns: tuple[str, ...] | None = None
        self._endpoint: Endpoint | None = None
        self._invalid = 0
        self._errors: list[InvalidLine] = []
        # A temporary file on disk, because a set of a million ids needs 100 MB of memory.
        self._ids = sqlite3.connect("", isolation_level=None)
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("PRAGMA synchronous = OFF")
        self._ids.execute("PRAGMA cache_size = -16000")
        self._ids.execute("CREATE TABLE ids (digest BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._ids.execute("BEGIN")

    def close(self) -> None:
        """Delete the temporary file."""
        self._ids.close()

    def check(self, text: Text | InvalidLine) -> None:
        """Check one line."""
        self.lines += 1
        try:
            if isinstance(text, InvalidLine):
                raise text
            line = self._format.parse(text)
            with_custom_id(line)
            self._check_size(line)
            self._check_fields(text)
            self._check_endpoint(line)
            self._check_unique(line)
        except InvalidLine as error:
            self._invalid += 1
            if len(self._errors) < MAX_ERRORS_SHOWN:
                self._errors.append(error)

    def build_result(self, name: str, source: InputReader) -> CheckedInput:
        """Return the facts about the input. Raises `Problem` unless all lines are valid."""
        if self._invalid:
            counts = f"{self._invalid:,} of {self.lines:,} lines"
            raise wrong_usage(
                f"{counts} of {name} are invalid; nothing was sent", "\n".join(self._list_hints())
            )
        if not self.lines:
            raise wrong_usage(f"{name} has no lines")
        columns = source.columns or self._columns or ()
        endpoint = self._endpoint or CHAT
        return CheckedInput(self.lines, columns, endpoint, source.fingerprint)

    def _list_hints(self) -> Iterator[str]:
        yield from map(str, self._errors)
        if self._invalid > len(self._errors):
            yield f"and {self._invalid - len(self._errors):,} more"
        first = self._errors[0]
        if self._format.input.kind == "jsonl" and first.reason.startswith("JSON is malformed"):
            yield "For a table or plain text, add --input-format csv, tsv or text"

    def _check_size(self, line: Line) -> None:
        """Check the limit of a prompt here: an error of `enqueue` does not name the line."""
        if (size := line.job.prompt_bytes) > self._max_prompt_bytes:
            limit = f"DARKQ_MAX_PROMPT_BYTES allows {self._max_prompt_bytes:,}"
            raise InvalidLine(line.number, "prompt", f"has {size:,} bytes; {limit}")

    def _check_fields(self, text: Text) -> None:
        """Check that the fields of a line and the answer can be joined."""
        if not self._output.join or (self._columns is not None and self._format.input.is_table):
            return
        fields = read_fields(self._format.input.kind, text)
        if self._output.answer_field in fields:
            reason = "is also the field of the answer; to name that: --answer-field NAME"
            raise InvalidLine(text.number, self._output.answer_field, reason)
        if self._columns is None:
            self._columns = tuple(fields)
        unknown = [name for name in fields if name not in self._columns]
        if unknown and self._output.is_table:
            reason = f"is no column of the table; they are: {list_names(self._columns)}"
            raise InvalidLine(text.number, show_name(unknown[0]), reason)

    def _check_endpoint(self, line: Line) -> None:
        self._endpoint = self._endpoint or line.endpoint
        if line.endpoint != self._endpoint:
            reason = f"must be {self._endpoint}, as on the lines before"
            raise InvalidLine(line.number, "url", reason, "invalid_url")

    def _check_unique(self, line: Line) -> None:
        digest = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
        added = self._ids.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (digest, line.number))
        if added.rowcount == 0:
            (first,) = self._ids.execute("SELECT line FROM ids WHERE digest = ?", (digest,))
            reason = f"is also that of line {first[0]}"
            raise InvalidLine(line.number, "custom_id", reason, "duplicate_custom_id")
