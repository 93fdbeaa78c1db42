"""The answer on OpenAI's wire, which many services speak: bytes in, pieces of text out. No I/O.

    choices[0].delta.content … → finish_reason → choices: [], usage → [DONE]

Each is an SSE event with one JSON object, but for the last. `finish_reason` ends the text, so
does `[DONE]`; a stream with neither was cut off. An `error` may come at any point, inside a 200.

As on DarkAI's wire there are two paths: typed decoding of the usual frames, straight from the
bytes, and a patient one for lone surrogates, bytes that are no UTF-8, and frames without a
blank line between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from darkq.event import Usage
from darkq.sse import EventDecoder, ServerSentEvent, SSEError
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    End,
    ProtocolViolation,
    Rejected,
    Truncated,
    UpstreamError,
)
from darkq_worker.upstreams.openai_errors import hidden, read_error
from darkq_worker.upstreams.reported import clean, reported_error

MAX_LINE_BYTES = 4 << 20
MAX_LINES_TRIED = 64
_DONE: Final = b"[DONE]"
_FINISH_REASONS = frozenset({"stop", "length", "content_filter", "tool_calls", "function_call"})
_BREAKS: Final = frozenset({"error", "abort"})  # some services end a broken answer with these


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None
    index: int = 0


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Frame(msgspec.Struct, gc=False):
    choices: list[_Choice]
    usage: _Usage | None = None
    error: Any = None


_decode_frame = msgspec.json.Decoder(_Frame).decode


class AnswerDecoder:
    """Reads one answer.

    `has_ended` says that the text is whole, `is_complete` that nothing of worth can follow.
    `got_frame` says whether the last chunk ended an event: a server that merely pings sends none.
    `malformed` counts the lines that were skipped. `secret` is kept out of all errors.
    """

    def __init__(
        self,
        *,
        prompt: str = "",
        secret: str = "",
        awaits_usage: bool = True,
        retry_after_s: float | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self.has_ended = False
        self.is_complete = False
        self.got_frame = False
        self.malformed = 0
        self._prompt = prompt
        self._secret = secret
        self._awaits_usage = awaits_usage
        self._retry_after_s = retry_after_s
        self._has_text = False
        self._finish_reason = "stop"
        self._usage: Usage | None = None
        self._events = EventDecoder(max_line_bytes=max_line_bytes, max_event_bytes=max_line_bytes)

    @property
    def end(self) -> End:
        """How it ended, once it has."""
        return End(finish_reason=self._finish_reason, usage=self._usage)

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the pieces of text in `chunk`. Iterate to the end before the next call.

        Raises `UpstreamError`, after the text before the fault.
        """
        self.got_frame = False
        try:
            for event in self._events.feed(chunk):
                self.got_frame = True
                try:
                    frame = _decode_frame(event.data)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    yield from self._feed_patiently(event)
                else:
                    if text := self._apply(frame):
                        yield text
                if self.is_complete:
                    return
        except SSEError as error:
            raise ProtocolViolation(f"the upstream sent {error}", status=200) from None

    def feed_eof(self) -> None:
        """Say that nothing more comes. Raises `Truncated` unless the text is whole."""
        if not self.has_ended:
            raise Truncated("the stream ended before the upstream said so", status=200)
        self.is_complete = True

    def _feed_patiently(self, event: ServerSentEvent) -> Iterator[str]:
        frame = _patient_frame(event.data, event.event)
        # A blank line may be missing: the neighbours of a malformed line are worth reading.
        lines = [event.data] if frame else event.data.split(b"\n", MAX_LINES_TRIED)
        for line in lines:
            if line.strip() == _DONE:
                self._end()
                self.is_complete = True
                return
            frame = frame or _patient_frame(line, event.event)
            if frame is None:
                self.malformed += 1
            elif text := self._apply(frame):
                yield text
            frame = None

    def _apply(self, frame: _Frame) -> str:
        """Take note of a frame; return its text."""
        if frame.error and not self.has_ended:
            raise self._error(frame.error)
        text = ""
        for choice in frame.choices:
            if choice.index == 0 and not self.has_ended:
                if choice.delta is not None and choice.delta.content:
                    text = choice.delta.content
                    self._has_text = True
                if choice.finish_reason:
                    self._finish(choice.finish_reason)
        if frame.usage is not None:
            self._usage = Usage(
                prompt_tokens=max(0, frame.usage.prompt_tokens or 0),
                completion_tokens=max(0, frame.usage.completion_tokens or 0),
            )
        if self.has_ended:
            self.is_complete = self._usage is not None or not self._awaits_usage
        return text

    def _finish(self, reason: str) -> None:
        if reason in _BREAKS:
            raise UpstreamError("the upstream broke its answer off", status=200)
        if reason in _FINISH_REASONS:
            self._finish_reason = reason
        self._end()

    def _end(self) -> None:
        if not self._has_text and self._finish_reason in ("length", "content_filter"):
            why = f"the upstream sent no text: {self._finish_reason}"
            raise Rejected(why, status=200)  # and would send none again
        if not self._has_text:
            raise EmptyAnswer("the upstream sent no text", status=200)
        self.has_ended = True

    def _error(self, error: object) -> UpstreamError:
        said = read_error(error)
        return reported_error(
            hidden(said.detail, self._secret),
            self._prompt,
            kind=said.kind,
            retry_after_s=self._retry_after_s,
        )


def _patient_frame(data: bytes, sse_event: str) -> _Frame | None:
    """Return the frame in `data`, or None where there is none.

    What an SSE event named `error` carries is an error, even where it is no frame.
    """
    text = data.decode(errors="replace")
    try:
        fields: Any = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return _Frame([], error=text) if sse_event == "error" else None
    if not isinstance(fields, dict):
        return _Frame([], error="error") if sse_event == "error" else None
    if sse_event == "error" or fields.get("error"):
        return _Frame([], error=fields.get("error") or fields)
    try:
        frame = msgspec.convert(fields, _Frame)
    except (msgspec.ValidationError, RecursionError):
        return None
    for choice in frame.choices:
        if choice.delta is not None:
            choice.delta.content = clean(choice.delta.content)
    return frame
