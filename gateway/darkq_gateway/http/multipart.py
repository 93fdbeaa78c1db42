"""Uploads: reads a `multipart/form-data` body part by part, with bounded size, memory and time.

    async for part in form.parts():
        a `Field` is complete; `form.pieces()` yields the content of an `Upload`

The parser is `python-multipart`. It gets `SLICE_BYTES` at a time, and other tasks run in between.
Everything except file content (boundaries, padding, headers, fields, what follows the last
boundary) is limited to `MAX_OVERHEAD_BYTES` in total. The body must begin with its first boundary.
The file store limits the size of a file.

Time: a client has a budget of `DARKQ_GATEWAY_READ_TIMEOUT_S` for waiting. Each byte of file content
returns to the budget the time that it takes at `DARKQ_GATEWAY_MIN_UPLOAD_BYTES_PER_S`, up to the
full budget. So an upload may take any time at that rate or above; everything else has one deadline.
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

from darkq_gateway.http.bodies import send_continue
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
_UNENCODED = (b"", b"binary", b"8bit", b"7bit")

# It logs bytes of each malformed body. The error response says what is wrong.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class Field(NamedTuple):
    """A part with a short value."""

    name: str
    value: str


class Upload(NamedTuple):
    """A part that is a file, with the file name that the client sent; see `Form.pieces`."""

    filename: str


class _Mark(Enum):
    FILE_ENDS = auto()
    FORM_ENDS = auto()


_Event: TypeAlias = "Field | Upload | bytes | _Mark"


class Form:
    """The parts of a request's body, in order; can be read once.

    Raises `ApiError`: 400 if the body is malformed or incomplete, 408 if it is too slow, 413 if it
    has too many parts or bytes.
    """

    def __init__(self, request: web.Request, *, file_field: str) -> None:
        settings = request.app[SETTINGS]
        content_type = request.headers[hdrs.CONTENT_TYPE].encode(errors="surrogateescape")
        _, options = _parse_options(content_type)
        if not (boundary := options.get(b"boundary")):
            raise _malformed("has no boundary")
        self._request = request
        self._parts = _Parts(boundary, file_field)
        self._body, self._position = b"", 0
        self._overhead_bytes = 0
        self._least_bytes_per_s = settings.gateway_min_upload_bytes_per_s
        self._budget_s = self._left_s = settings.gateway_read_timeout_s

    async def parts(self) -> AsyncGenerator[Field | Upload, None]:
        """Yield the parts. File content that was not read is skipped."""
        await send_continue(self._request)
        while (event := await self._next()) is not _Mark.FORM_ENDS:
            if isinstance(event, Field | Upload):
                yield event

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the content of the `Upload` that `parts` has just yielded."""
        while isinstance(piece := await self._next(), bytes):
            yield piece

    async def _next(self) -> _Event:
        events = self._parts.events
        while not events:
            if self._position == len(self._body) and not await self._read():
                if not self._parts.complete:
                    raise _malformed("ended too early")
                return _Mark.FORM_ENDS
            self._feed()
            await asyncio.sleep(0)  # parsing a slice may take long, so let other tasks run
        return events.popleft()

    async def _read(self) -> bool:
        """Read more of the body; return False at its end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._left_s):
                self._body, self._position = await self._request.content.readany(), 0
        except TimeoutError:
            message = (
                f"the upload is slower than {self._least_bytes_per_s:,} bytes per second "
                "(DARKQ_GATEWAY_MIN_UPLOAD_BYTES_PER_S)"
            )
            raise ApiError(408, "too_slow", message) from None
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            raise _malformed("ended too early") from None
        self._left_s -= loop.time() - began
        return bool(self._body)

    def _feed(self) -> None:
        """Parse the next slice of the bytes that were read, and update the time budget."""
        piece = self._body[self._position : self._position + SLICE_BYTES]
        self._position += len(piece)
        before = self._parts.file_bytes
        self._parts.feed(piece)
        file_bytes = self._parts.file_bytes - before
        self._overhead_bytes += len(piece) - file_bytes
        if self._overhead_bytes > MAX_OVERHEAD_BYTES:
            message = f"the body has more than {MAX_OVERHEAD_BYTES:,} bytes in addition to its file"
            raise ApiError(413, "body_too_large", message)
        returned_s = file_bytes / self._least_bytes_per_s
        self._left_s = min(self._budget_s, self._left_s + returned_s)


class _Parts:
    """The callbacks of the parser: assemble parts, and enforce limits. No I/O."""

    def __init__(self, boundary: bytes, file_field: str) -> None:
        self.events: deque[_Event] = deque()
        self.file_bytes = 0
        self.complete = False
        self._file_field = file_field
        self._delimiter = b"\r\n--" + boundary
        self._first_line = b"--" + boundary
        self._count = 0
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_text = b""
        self._name = ""
        self._value: bytearray | None = None  # None while the part is a file
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._part_begin,
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
        # The parser would skip any number of line ends before the first boundary.
        start = self._first_line[: len(piece)]
        if not piece.startswith(start):
            raise _malformed("does not begin with its boundary")
        self._first_line = self._first_line[len(start) :]
        try:
            self._parser.write(piece)
        except FormParserError:
            raise _malformed("has a syntax error") from None

    def _part_begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise ApiError(413, "body_too_large", f"the body has more than {MAX_PARTS} parts")
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_text += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_text
        self._header_name = self._header_text = b""

    def _headers_finished(self) -> None:
        if self._headers.get(b"content-transfer-encoding", b"").strip().lower() not in _UNENCODED:
            raise _malformed("has a part with a Content-Transfer-Encoding, which is not supported")
        if b"content-encoding" in self._headers:
            raise _malformed("has a part with a Content-Encoding, which is not supported")
        disposition, options = _parse_options(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        if disposition != b"form-data" or not self._name:
            raise _malformed("has a part without a name")
        self._value = None if self._name == self._file_field else bytearray()
        if self._value is None:
            self.events.append(Upload(options.get(b"filename", b"").decode(errors="replace")))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            # RFC 2046 forbids it. The parser falls back to single bytes there, which is slow.
            if data.find(self._delimiter, start, end) >= 0:
                raise _malformed("has its boundary inside a file")
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
    """Return whether an error message may quote the name of a field: it must be short."""
    return _NAME.fullmatch(name) is not None


def _parse_options(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return a header's value and its parameters. Raises `ApiError`."""
    if header.count(b";") > MAX_SEMICOLONS:  # the time to parse is quadratic in them
        raise _malformed("has a header with too many parameters")
    return parse_options_header(header)


def _malformed(what: str) -> ApiError:
    return ApiError(400, "invalid_body", f"the multipart body {what}")
