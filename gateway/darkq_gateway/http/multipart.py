"""Uploads: a `multipart/form-data` body, part by part, bounded in every direction.

    async for part in form.parts():
        a `Field` comes whole; the content of an `Upload` comes from `form.pieces()`

The parser is `python-multipart`, which is fed `SLICE_BYTES` at a time and lets other tasks run in
between. What is not a file's content (boundaries, padding, headers, fields, whatever follows the
last boundary) has `MAX_OVERHEAD_BYTES` in all; nothing may stand before the first boundary. A file
is as large as the store of files allows.

A client has `DARKQ_GATEWAY_READ_TIMEOUT_S` to spend on being slow. Each byte of a file gives back
what it may take at `DARKQ_GATEWAY_MIN_UPLOAD_BYTES_PER_S`, up to the whole of that time again:
so a file may arrive for as long as it keeps that rate, and everything else has one deadline.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from darkq_gateway.http.bodies import ask_for_body
from darkq_gateway.http.context import SETTINGS
from darkq_gateway.http.errors import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

SLICE_BYTES = 16 << 10
MAX_PARTS = 16
MAX_HEADERS = 8
MAX_HEADER_BYTES = 2048
MAX_SEMICOLONS = 64
MAX_FIELD_BYTES = 4096
MAX_OVERHEAD_BYTES = 32 << 10

_NAME = re.compile(r"[\w.\[\]-]{1,64}", re.ASCII)
_AS_IT_IS = (b"", b"binary", b"8bit", b"7bit")

# It logs each malformed body, with bytes of it; the answer says what is wrong.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class Field(NamedTuple):
    """A part with a short value."""

    name: str
    value: str


class Upload(NamedTuple):
    """A part that is a file; its content comes with `Form.pieces`. The name is the client's."""

    filename: str


class _Mark(Enum):
    FILE_ENDS = auto()
    FORM_ENDS = auto()


_Event: TypeAlias = "Field | Upload | bytes | _Mark"


class Form:
    """The parts of a request's body, in their order; to be read once.

    Raises `ApiError`: 400 for a body that is malformed or cut off, 408 for one that is too slow,
    413 for one with too many parts or bytes.
    """

    def __init__(self, request: web.Request, *, file_field: str) -> None:
        settings = request.app[SETTINGS]
        self._request = request
        self._parts = _Parts(_boundary(request), file_field)
        self._body, self._at = b"", 0
        self._overhead_bytes = 0
        self._least_bytes_per_s = settings.gateway_min_upload_bytes_per_s
        self._patience_s = self._left_s = settings.gateway_read_timeout_s

    async def parts(self) -> AsyncGenerator[Field | Upload, None]:
        """Yield the parts. What was not read of a file is skipped."""
        await ask_for_body(self._request)
        while (event := await self._next()) is not _Mark.FORM_ENDS:
            if isinstance(event, Field | Upload):
                yield event

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the content of the file that the iteration has just come to."""
        while isinstance(piece := await self._next(), bytes):
            yield piece

    async def _next(self) -> _Event:
        events = self._parts.events
        while not events:
            if self._at == len(self._body) and not await self._read():
                if not self._parts.complete:
                    raise _malformed("was cut off")
                return _Mark.FORM_ENDS
            self._feed()
            await asyncio.sleep(0)  # other tasks first: the next slice may be as costly
        return events.popleft()

    async def _read(self) -> bool:
        """Wait for more of the body; False at its end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._left_s):
                self._body, self._at = await self._request.content.readany(), 0
        except TimeoutError:
            raise _too_slow(self._least_bytes_per_s) from None
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            raise _malformed("was cut off") from None
        self._left_s -= loop.time() - began
        return bool(self._body)

    def _feed(self) -> None:
        """Parse the next slice of what was read."""
        piece = self._body[self._at : self._at + SLICE_BYTES]
        self._at += len(piece)
        before = self._parts.file_bytes
        self._parts.feed(piece)
        of_file = self._parts.file_bytes - before
        self._overhead_bytes += len(piece) - of_file
        if self._overhead_bytes > MAX_OVERHEAD_BYTES:
            message = f"the body has more than {MAX_OVERHEAD_BYTES:,} bytes beside its file"
            raise ApiError(413, "body_too_large", message)
        earned_s = of_file / self._least_bytes_per_s
        self._left_s = min(self._patience_s, self._left_s + earned_s)


class _Parts:
    """What the parser calls: puts parts together, and counts. No I/O."""

    def __init__(self, boundary: bytes, file_field: str) -> None:
        self.events: deque[_Event] = deque()
        self.file_bytes = 0
        self.complete = False
        self._file_field = file_field
        self._delimiter = b"\r\n--" + boundary
        self._first_line = b"--" + boundary
        self._count = 0
        self._headers: dict[bytes, bytes] = {}
        self._header = (b"", b"")
        self._name = ""
        self._value: bytearray | None = None  # None while the part is a file
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._part_begin,
            "on_header_begin": self._header_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(
                boundary, callbacks, max_header_count=MAX_HEADERS, max_header_size=MAX_HEADER_BYTES
            )
        except FormParserError:
            raise _malformed("has an unusable boundary") from None

    def feed(self, piece: bytes) -> None:
        """Parse a piece of the body. Raises `ApiError`."""
        # The parser skips line ends and more before the first boundary, however many there are.
        start = self._first_line[: len(piece)]
        if not piece.startswith(start):
            raise _malformed("does not begin with its boundary")
        self._first_line = self._first_line[len(start) :]
        try:
            self._parser.write(piece)
        except FormParserError:
            raise _malformed("cannot be read") from None

    def _part_begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise ApiError(413, "body_too_large", f"the body has more than {MAX_PARTS} parts")
        self._headers = {}

    def _header_begin(self) -> None:
        self._header = (b"", b"")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], b"")

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value

    def _headers_finished(self) -> None:
        if self._headers.get(b"content-transfer-encoding", b"").strip().lower() not in _AS_IT_IS:
            raise _malformed("has a part with a Content-Transfer-Encoding: send it as it is")
        if b"content-encoding" in self._headers:
            raise _malformed("has a part with a Content-Encoding: send it as it is")
        disposition, options = _options(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        if disposition != b"form-data" or not self._name:
            raise _malformed("has a part without a name")
        self._value = None if self._name == self._file_field else bytearray()
        if self._value is None:
            self.events.append(Upload(options.get(b"filename", b"").decode(errors="replace")))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            # RFC 2046 forbids it, and the parser goes on byte by byte at each of them.
            if data.find(self._delimiter, start, end) >= 0:
                raise _malformed("has its boundary within a file")
            self.file_bytes += end - start
            self.events.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            name = self._name if is_plain(self._name) else None
            message = f"{name or 'a field'} has more than {MAX_FIELD_BYTES:,} bytes"
            raise ApiError(413, "field_too_large", message, name)

    def _part_end(self) -> None:
        if self._value is None:
            self.events.append(_Mark.FILE_ENDS)
        else:
            self.events.append(Field(self._name, self._value.decode(errors="replace").strip()))

    def _end(self) -> None:
        self.complete = True


def is_plain(name: str) -> bool:
    """Tell whether a name of a field may be quoted in an answer: a short one that is no text."""
    return _NAME.fullmatch(name) is not None


def _boundary(request: web.Request) -> bytes:
    _, options = _options(request.headers[hdrs.CONTENT_TYPE].encode(errors="surrogateescape"))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _malformed("has no boundary")
    return boundary


def _options(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return a header's value and its parameters. Raises `ApiError`."""
    if header.count(b";") > MAX_SEMICOLONS:  # what takes long is quadratic in them
        raise _malformed("has a header with too many parameters")
    return parse_options_header(header)


def _malformed(what: str) -> ApiError:
    return ApiError(400, "invalid_body", f"the multipart body {what}")


def _too_slow(bytes_per_s: int) -> ApiError:
    message = (
        f"the upload is slower than {bytes_per_s:,} bytes per second "
        "(DARKQ_GATEWAY_MIN_UPLOAD_BYTES_PER_S)"
    )
    return ApiError(408, "too_slow", message)
