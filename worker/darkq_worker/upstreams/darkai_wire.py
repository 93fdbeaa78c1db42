"""Decodes DarkAI's answers: bytes in, pieces of text out. No I/O.

    begin-stream → text-chunk{text} … → stream-end → final-response{message}

Each is an SSE event whose data is `{"event": name, "data": {…}}`. Newer servers swap the last two,
older ones send only `final-response`. Each of the two means that the answer is complete. The text
of `final-response` repeats the chunks, so it is used only if there were none. `error{detail}` may
arrive at any point, inside a 200. Other events are ignored.

Proxies send event streams with any Content-Type, and errors with that of event streams. So the
first byte that is not blank decides what a 200 contains: `<` is a page, `{` or `[` is JSON instead
of events, any other byte starts events. Such JSON is an error in any shape, or one whole frame.

Nearly every frame is a text chunk, so there are two paths: typed decoding straight from the bytes,
and a tolerant one for everything else: other events, lone surrogates, bytes that are not UTF-8,
frames without a blank line between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from darkq.sse import EventDecoder, ServerSentEvent, SSEError
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    ProtocolViolation,
    Truncated,
    UpstreamError,
)
from darkq_worker.upstreams.http_errors import clean, reported_error
from darkq_worker.upstreams.openai_errors import Reported, find_error, read_error

# `final-response` holds the whole answer on one line, and JSON may spend 3 bytes where UTF-8
# spends one: room for an answer of 1 MiB, the bound of a prompt.
MAX_LINE_BYTES = 4 << 20
MAX_LINES_TRIED = 64
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data", b"event", b"id", b"retry", b":")
_LONGEST_FIELD = 5
_NO_EVENTS = "HTTP 200, but {} instead of events"


class _Text(msgspec.Struct, gc=False):
    text: str


class _TextChunk(msgspec.Struct, gc=False):
    event: Literal["text-chunk"]
    data: _Text


class _Plain(msgspec.Struct, gc=False):
    """An event of which only the name is used."""

    event: Literal["begin-stream", "stream-end"]


class Frame(msgspec.Struct, frozen=True):
    """Any event; it has at most one of the fields."""

    event: str
    text: str = ""
    message: str = ""
    detail: str = ""


_decode_text_chunk = msgspec.json.Decoder(_TextChunk).decode
_decode_plain = msgspec.json.Decoder(_Plain).decode
_decode_first = json.JSONDecoder(strict=False).raw_decode
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class AnswerDecoder:
    """Decodes one answer.

    `got_frame` is True if the last chunk ended an event of any kind: keep-alives do not.
    `malformed` counts skipped lines.
    """

    def __init__(
        self,
        *,
        prompt: str = "",
        retry_after_s: float | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self.is_complete = False
        self.got_frame = False
        self.malformed = 0
        self._prompt = prompt
        self._retry_after_s = retry_after_s
        self._has_text = False
        self._has_ended = False
        self._max_bytes = max_line_bytes
        self._first = b""  # the start of the answer, without blanks
        self._json: bytearray | None = None  # JSON instead of events, as far as received
        self._json_tries = 0
        self._has_events = False
        self._events = EventDecoder(max_line_bytes=max_line_bytes, max_event_bytes=max_line_bytes)

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the pieces of text in `chunk`. Iterate to the end before the next call.

        Raises `UpstreamError`, after the text before the error.
        """
        self.got_frame = False
        if self._json is None and not self._has_events:
            chunk = self._detect(chunk)
        if self._json is not None:
            self._json += chunk
            yield from self._read_json()
            return
        try:
            for event in self._events.feed(chunk):
                self.got_frame = self._has_events = True
                try:
                    text = _decode_text_chunk(event.data).data.text
                except _UNDECODABLE:
                    yield from self._feed_other(event)
                    if self.is_complete:
                        return
                else:
                    if text:
                        self._has_text = True
                        yield text
        except SSEError as error:
            raise ProtocolViolation(f"the upstream sent {error}", status=200) from None

    def feed_eof(self) -> None:
        """Handle the end of the stream. Raises `UpstreamError` unless the answer is complete."""
        if self.is_complete:
            return
        if self._has_ended:
            raise EmptyAnswer("the upstream sent no text", status=200)
        if self._json is not None:
            for _ in self._read_json(at_eof=True):  # raises; a whole answer was read before
                pass
        if self._json is not None or self._is_foreign:
            raise ProtocolViolation(_NO_EVENTS.format("something else"), status=200)
        raise Truncated("the stream ended before the upstream said so", status=200)

    def _detect(self, chunk: bytes) -> bytes:
        """Find out from the first bytes what the answer contains; return the bytes to decode.

        Raises `ProtocolViolation` for an HTML page.
        """
        if len(self._first) == _LONGEST_FIELD:
            return chunk
        begun = (self._first + chunk).removeprefix(_BOM).lstrip()
        self._first = begun[:_LONGEST_FIELD]
        if begun.startswith(b"<"):
            raise ProtocolViolation(_NO_EVENTS.format("an HTML page"), status=200)
        if begun.startswith((b"{", b"[")):
            self._json = bytearray()
            return begun
        return chunk

    @property
    def _is_foreign(self) -> bool:
        """True if there was no event, and the first line is not a field of an event stream."""
        return bool(self._first) and not (
            self._has_events
            or self._first.startswith(_FIELDS)
            or any(field.startswith(self._first) for field in _FIELDS)
        )

    def _read_json(self, *, at_eof: bool = False) -> Iterator[str]:
        """Read JSON instead of events, once it is whole."""
        data = self._json or b""
        self.got_frame = True
        if len(data) > self._max_bytes:
            raise ProtocolViolation(_NO_EVENTS.format("something else"), status=200)
        if not at_eof:
            if self._json_tries >= MAX_LINES_TRIED or not data[-8:].rstrip().endswith((b"}", b"]")):
                return
            self._json_tries += 1
        try:
            value: Any = _decode_first(data.decode(errors="replace"))[0]
        except (ValueError, RecursionError):
            return
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, dict):
                continue
            if each.get("event") == "error" or find_error(each) is not None:
                raise self._error(read_error(each))
            frame = tolerant_frame(json.dumps(each).encode(), "message")
            if frame is not None and frame.event == "final-response":
                yield from self._apply(frame)
        if not self.is_complete:
            raise ProtocolViolation(_NO_EVENTS.format("something else"), status=200)

    def _error(self, said: Reported) -> UpstreamError:
        wait_s = said.wait_s if self._retry_after_s is None else self._retry_after_s
        return reported_error(said.detail, self._prompt, kind=said.kind, retry_after_s=wait_s)

    def _feed_other(self, event: ServerSentEvent) -> Iterator[str]:
        frame = _plain_frame(event) or tolerant_frame(event.data, event.event)
        if frame is not None:
            yield from self._apply(frame)
            return
        # A blank line may be missing, so that one event has several frames. Read each line.
        for line in event.data.split(b"\n", MAX_LINES_TRIED):
            frame = tolerant_frame(line, event.event)
            if frame is None:
                self.malformed += 1
            elif not self.is_complete:
                yield from self._apply(frame)

    def _apply(self, frame: Frame) -> Iterator[str]:
        match frame.event:
            case "text-chunk" if frame.text:
                self._has_text = True
                yield frame.text
            case "stream-end":
                self._has_ended = True
                self.is_complete = self._has_text  # without text, the final response may have it
            case "final-response":
                self._has_ended = True
                if not self._has_text and frame.message:
                    self._has_text = True
                    yield frame.message
                self.is_complete = self._has_text
                self.feed_eof()
            case "error":
                raise reported_error(frame.detail, self._prompt, retry_after_s=self._retry_after_s)


def _plain_frame(event: ServerSentEvent) -> Frame | None:
    if event.event == "error":
        return None
    try:
        return Frame(_decode_plain(event.data).event)
    except _UNDECODABLE:
        return None


def tolerant_frame(data: bytes, sse_event: str) -> Frame | None:
    """Return the frame in `data`, or None.

    An SSE event named `error` is an error even if it is not a frame: an answer with one must not
    succeed.
    """
    is_error = sse_event == "error"
    text = data.decode(errors="replace")
    try:
        frame: Any = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return Frame("error", detail=text) if is_error else None
    if not isinstance(frame, dict):
        return Frame("error") if is_error else None
    name = "error" if is_error else frame.get("event")
    fields = frame.get("data", frame)
    if not isinstance(fields, dict):
        fields = {}
    if not isinstance(name, str):
        return None
    if name == "text-chunk" and not isinstance(fields.get("text"), str):
        return None
    text, message, detail = (clean(fields.get(key)) for key in ("text", "message", "detail"))
    return Frame(name, text, message, detail)


def error_detail(body: bytes) -> str:
    """Return the message in the body of a refusal: FastAPI's JSON, or an SSE error event.

    Of a validation error only the location and the reason: it also contains the input.
    """
    try:
        refusal: Any = json.loads(body)
    except (ValueError, RecursionError):
        return _sse_error_detail(body)
    detail = refusal.get("detail") if isinstance(refusal, dict) else None
    if not isinstance(detail, list):
        return clean(detail)
    faults = [fault for fault in detail if isinstance(fault, dict)]
    return "; ".join(clean(f"{fault.get('loc')}: {fault.get('msg')}") for fault in faults)


def _sse_error_detail(body: bytes) -> str:
    events = EventDecoder(max_line_bytes=len(body), max_event_bytes=len(body))
    for event in events.feed(body + b"\n\n"):  # it may be cut off, or end without a blank line
        frame = tolerant_frame(event.data, "error")
        if frame is not None and frame.detail:
            return frame.detail
    return ""
