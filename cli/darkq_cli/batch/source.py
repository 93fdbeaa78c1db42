"""The lines of an input, however it is packed: plain, with gzip, with zstd.

That is seen from its first bytes, so a name need not say it. One line is in memory at a time, and
its length is bounded, so a file may be of any size.

The whole input, before the first line is sent: a mistake on the last line costs nothing.
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

from darkq.batches.feed import with_custom_id
from darkq.batches.input_lines import InputLines, Text
from darkq.batches.lines import ForAllLines, Line, json_line, text_line
from darkq.errors import InvalidLine
from darkq.openai.body import CHAT, Endpoint
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem, require

_PIECE_BYTES = 1 << 16
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_STEP = 1 << 10
"""So little may unpack to 32 MB."""


class Fingerprint(NamedTuple):
    """What tells whether an input is still the same: of the unpacked bytes."""

    size: int
    sha256: str


class Reading:
    """One pass over an input. What it tells is of the bytes read so far."""

    def __init__(self, name: str, stream: IO[bytes], packed: IO[bytes]) -> None:
        self._name = name
        self._stream = stream
        self._packed = packed
        self._hash = hashlib.sha256()
        self._size = 0

    @property
    def position(self) -> int:
        """How many bytes of the file have been read, packed as they are."""
        return self._packed.tell() if self._packed.seekable() else self._size

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self._size, self._hash.hexdigest())

    def lines(self) -> Iterator[Text | InvalidLine]:
        """Yield the lines that are not blank; in the place of one that is wrong, the error.

        Raises `Problem` for a file that is damaged.
        """
        lines = InputLines()
        while piece := self._take():
            yield from lines.feed(piece)
        yield from lines.end()

    def to_the_end(self) -> None:
        """Read what is left, for the fingerprint."""
        while self._take():
            pass

    def _take(self) -> bytes:
        try:
            piece = self._stream.read(_PIECE_BYTES)
        except (EOFError, gzip.BadGzipFile, zlib.error, _BadZstd):
            words = f"{self._name} is damaged, or not packed as its name says"
            raise Problem(words, exit_code=USAGE_EXIT_CODE) from None
        except OSError as error:
            raise unreadable(self._name, error) from None
        self._hash.update(piece)
        self._size += len(piece)
        return piece


@contextmanager
def reading(path: Path, name: str = "") -> Iterator[Reading]:
    """Open a file for one pass. Raises `Problem` when it cannot be read, which says its name."""
    name = name or str(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise unreadable(name, error) from None
    with file, _unpacked(path, name, file) as stream:
        yield Reading(name, stream, file)


def unreadable(name: str, error: OSError) -> Problem:
    return Problem(f"cannot read {name}: {error.strerror}", exit_code=USAGE_EXIT_CODE)


def _unpacked(path: Path, name: str, file: io.BufferedReader) -> IO[bytes]:
    try:
        head = file.peek(len(_ZSTD))[: len(_ZSTD)]
    except OSError as error:
        raise unreadable(name, error) from None
    suffix = path.suffix.lower()
    if head.startswith(_GZIP) or (suffix == ".gz" and head != _ZSTD):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if head == _ZSTD or suffix == ".zst":
        require("zstd", "zstandard")
        return io.BufferedReader(_ZstdStream(file), _PIECE_BYTES)
    return file


class _BadZstd(Exception):
    pass


class _ZstdStream(io.RawIOBase):
    """Frame after frame, unpacked. `zstandard`'s own reader takes a torn file for a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        from zstandard import ZstdDecompressor

        self._file = file
        self._decompressor = ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._begun = False
        self._packed = self._plain = b""

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
        """Unpack a little more; False at the end of the file."""
        from zstandard import ZstdError

        packed = self._packed or self._file.read(_ZSTD_STEP)
        self._packed = b""
        if not packed:
            if self._begun:
                raise _BadZstd
            return False
        try:
            self._plain = self._frame.decompress(packed)
        except ZstdError:
            raise _BadZstd from None
        self._begun = not self._frame.eof
        if self._frame.eof:
            self._packed = self._frame.unused_data
            self._frame = self._decompressor.decompressobj()
        return True


ERRORS_SHOWN = 10
_STEP = 1000


class Form(NamedTuple):
    """How the lines of an input are read."""

    is_text: bool
    common: ForAllLines

    def line(self, text: Text) -> Line:
        """Read a line. Raises `InvalidLine`."""
        read = text_line if self.is_text else json_line
        return read(text.text, text.number, self.common)


class Checked(NamedTuple):
    """What is known of an input without a mistake. `lines` are those that are not blank."""

    lines: int
    endpoint: Endpoint
    fingerprint: Fingerprint


def check(path: Path, name: str, form: Form, tell: Callable[[int], object]) -> Checked:
    """Read an input to its end. `tell` hears now and then how many bytes of the file are read.

    Raises `Problem`, which says the name of the input and its first mistakes.
    """
    with reading(path, name) as source, closing(_Checker()) as checker:
        for count, text in enumerate(source.lines()):
            checker.take(text, form)
            if count % _STEP == 0:
                tell(source.position)
        tell(source.position)
        return checker.checked(name, source)


class _Checker:
    """Takes line after line; finds those that are wrong, or say what another has said."""

    def __init__(self) -> None:
        self.lines = 0
        self._endpoint: Endpoint | None = None
        self._wrong = 0
        self._errors: list[InvalidLine] = []
        # On disk, in a file without a name: a set of a million ids would be 100 MB of memory.
        self._ids = sqlite3.connect("", isolation_level=None)
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("PRAGMA synchronous = OFF")
        self._ids.execute("PRAGMA cache_size = -16000")
        self._ids.execute("CREATE TABLE ids (digest BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._ids.execute("BEGIN")

    def close(self) -> None:
        """Drop the file."""
        self._ids.close()

    def take(self, text: Text | InvalidLine, form: Form) -> None:
        """Check one line more."""
        self.lines += 1
        try:
            if isinstance(text, InvalidLine):
                raise text
            line = form.line(text)
            with_custom_id(line)
            self._same_endpoint(line)
            self._unique(line)
        except InvalidLine as error:
            self._wrong += 1
            if len(self._errors) < ERRORS_SHOWN:
                self._errors.append(error)

    def checked(self, name: str, source: Reading) -> Checked:
        """Return what was found. Raises `Problem` unless all lines are right."""
        if self._wrong:
            raise Problem(
                f"{self._wrong:,} of {self.lines:,} lines of {name} are wrong; nothing was sent",
                "\n".join(self._said()),
                exit_code=USAGE_EXIT_CODE,
            )
        if not self.lines:
            raise Problem(f"{name} has no lines", exit_code=USAGE_EXIT_CODE)
        return Checked(self.lines, self._endpoint or CHAT, source.fingerprint)

    def _said(self) -> Iterator[str]:
        yield from map(str, self._errors)
        if self._wrong > len(self._errors):
            yield f"and {self._wrong - len(self._errors):,} more"

    def _same_endpoint(self, line: Line) -> None:
        self._endpoint = self._endpoint or line.endpoint
        if line.endpoint != self._endpoint:
            reason = f"must be {self._endpoint}, as on the lines before"
            raise InvalidLine(line.number, "url", reason, "invalid_url")

    def _unique(self, line: Line) -> None:
        digest = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
        added = self._ids.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (digest, line.number))
        if added.rowcount == 0:
            (first,) = self._ids.execute("SELECT line FROM ids WHERE digest = ?", (digest,))
            reason = f"is that of line {first[0]}, too"
            raise InvalidLine(line.number, "custom_id", reason, "duplicate_custom_id")
