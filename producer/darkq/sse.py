"""Server-sent events: bytes in, events out, and back. No I/O.

Decoding has two steps. The line decoder cuts pieces of any size into lines. The event decoder
collects lines and yields an event at each blank line. An event without a blank line is incomplete
and is dropped, so nothing has to be flushed at the end of a stream.

The decoder holds at most `max_line_bytes` of an unfinished line, `max_event_bytes` of data, and one
line each of `event` and `id`. Data stays bytes: most of it is JSON, which is decoded faster from
bytes than from a string.

The branches follow https://html.spec.whatwg.org/multipage/server-sent-events.html, § 9.2.5
(parsing) and § 9.2.6 (interpretation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

DEFAULT_MAX_BYTES = 1 << 20
STRAY = "(stray line)"
"""The `event` of a line that is no SSE field; only with `keeps_strays`."""

_BOM = b"\xef\xbb\xbf"
_MAX_RETRY_DIGITS = 12
_FIELDS = frozenset((b"data", b"event", b"id", b"retry", b""))


class SSEError(ValueError):
    """The stream exceeds a limit. The rest of it cannot be decoded."""

    def __init__(self, what: str, limit_bytes: int) -> None:
        super().__init__(f"{what} of more than {limit_bytes:,} bytes")
        self.limit_bytes = limit_bytes


class LineTooLong(SSEError):
    """A line is longer than `limit_bytes`, its end not counted."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__("a line", limit_bytes)


class EventTooLarge(SSEError):
    """The data of one event, line feeds between its lines included, exceed `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__("an event", limit_bytes)


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event. `id` is the last id of the stream, sent with this event or an earlier one."""

    data: bytes
    event: str = "message"
    id: str = ""

    @property
    def text(self) -> str:
        """The data as a string; bytes that are not UTF-8 become U+FFFD."""
        return self.data.decode(errors="replace")


class LineDecoder:
    """Cuts bytes into lines, which end with CRLF, LF or CR, and drops a leading BOM."""

    def __init__(self, *, max_line_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._unfinished = bytearray()
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """Return the lines that `chunk` completes. Iterate to the end before the next call.

        Iterating raises `LineTooLong`, after the lines before the long one.
        """
        if self._at_start:
            chunk = bytes(self._unfinished) + chunk
            self._unfinished.clear()
            if _BOM.startswith(chunk):  # a part of the BOM so far
                self._unfinished += chunk
                return ()
            chunk = chunk.removeprefix(_BOM)
            self._at_start = False
        if self._after_cr and chunk:  # the CR has ended the line; the LF of a CRLF came separately
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return ()
        crowded = len(self._unfinished) + len(chunk) > self._max_line_bytes
        lines = chunk.splitlines()  # bytes split at CRLF, LF and CR only; str splits at more
        if chunk.endswith((b"\n", b"\r")):
            self._after_cr = chunk.endswith(b"\r")
            rest = b""
        else:
            rest = lines.pop()
        if lines and self._unfinished:
            lines[0] = bytes(self._unfinished + lines[0])
            self._unfinished.clear()
        if crowded:
            return self._within_bound(lines, rest)
        self._unfinished += rest
        return lines

    def _within_bound(self, lines: list[bytes], rest: bytes) -> Iterator[bytes]:
        for line in lines:
            if len(line) > self._max_line_bytes:
                raise LineTooLong(self._max_line_bytes)
            yield line
        if len(self._unfinished) + len(rest) > self._max_line_bytes:
            raise LineTooLong(self._max_line_bytes)
        self._unfinished += rest


class EventDecoder:
    """Collects lines into events. `retry_ms` is the last reconnection time that was sent.

    The standard ignores lines with unknown fields. With `keeps_strays` such a line is yielded at
    once as an event named `STRAY`: some services write errors as bare lines.
    """

    def __init__(
        self,
        *,
        max_line_bytes: int = DEFAULT_MAX_BYTES,
        max_event_bytes: int = DEFAULT_MAX_BYTES,
        keeps_strays: bool = False,
    ) -> None:
        self.retry_ms: int | None = None
        self._keeps_strays = keeps_strays
        self._lines = LineDecoder(max_line_bytes=max_line_bytes)
        self._max_bytes = max_event_bytes
        self._data: bytes | bytearray | None = None
        self._event = "message"
        self._id = ""

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that `chunk` completes. Iterate to the end before the next call.

        Raises `LineTooLong` or `EventTooLarge`, after the events before the fault.
        """
        for line in self._lines.feed(chunk):
            # Fast path for nearly every line: the first data of an event, within the limit.
            if self._data is None and line.startswith(b"data: ") and len(line) <= self._max_bytes:
                self._data = line[6:]
            elif line:
                # "Otherwise, the string is not empty but does not contain a colon: use the whole
                # line as the field name, and the empty string as the field value"
                name, _, value = line.partition(b":")
                if not self._field(name, value.removeprefix(b" ")) and self._keeps_strays:
                    yield ServerSentEvent(line, STRAY, self._id)
            else:  # "If the line is empty (a blank line): dispatch the event"
                data, event = self._data, self._event
                self._data, self._event = None, "message"
                if data is not None:  # "If the data buffer is an empty string … return"
                    yield ServerSentEvent(
                        data if isinstance(data, bytes) else bytes(data), event, self._id
                    )

    def _add_data(self, value: bytes) -> None:
        size = len(value) if self._data is None else len(self._data) + 1 + len(value)
        if size > self._max_bytes:
            raise EventTooLarge(self._max_bytes)
        if self._data is None:
            self._data = value
            return
        if isinstance(self._data, bytes):  # a list of short lines would need more memory
            self._data = bytearray(self._data)
        self._data += b"\n"
        self._data += value

    def _field(self, name: bytes, value: bytes) -> bool:
        """Process a field (§ 9.2.6) and return whether its name is known. A comment has no name."""
        if name == b"data":
            self._add_data(value)
        elif name == b"event":
            self._event = value.decode(errors="replace") or "message"
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            self.retry_ms = int(value)
        return name in _FIELDS


def encode(data: str, event: str | None = None, id: str | None = None) -> bytes:  # noqa: A002
    """Return the bytes of an event; CRLF and CR in `data` arrive as LF.

    Raises `ValueError` for a CR, LF or NUL in `event` or `id`.
    """
    for name, value in (("event", event), ("id", id)):
        if value is not None and any(char in value for char in "\r\n\0"):
            raise ValueError(f"{name} has a CR, LF or NUL")
    lines = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return frame("\ndata: ".join(lines).encode(), event, id)


def frame(data: bytes, event: str | None = None, id: str | None = None) -> bytes:  # noqa: A002
    """Return the bytes of an event without any check.

    `data` is one line, such as JSON. `event` and `id` contain no CR, LF or NUL. The id comes last:
    some clients take it as that of the last event at once, and lose the event if the connection
    breaks before its data.
    """
    head = b"" if event is None else b"event: %b\n" % event.encode()
    tail = b"" if id is None else b"id: %b\n" % id.encode()
    return b"%bdata: %b\n%b\n" % (head, data, tail)
