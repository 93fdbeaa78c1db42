"""The lines of an input, however it is packed: plain, with gzip, with zstd.

That is seen from its first bytes, so a name need not say it. One line is in memory at a time, and
its length is bounded, so a file may be of any size.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

from darkq.batches.input_lines import InputLines, Text
from darkq.errors import InvalidLine
from darkq_cli.problems import USAGE_EXIT_CODE, Problem, require

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
