"""The answer on OpenAI's wire, which many services speak: bytes in, pieces of text out. No I/O.

    choices[0].delta.content … → finish_reason → choices: [], usage → [DONE]

Each is an SSE event with one JSON object, but for the last. Services differ in everything else, so
there is one rule for the end. An answer is complete when

    - a finish reason that is known and good follows its last text, or
    - `[DONE]` comes, or the stream ends after an unknown finish reason, and every frame
      was understood.

Anything else is `Truncated`, with a quote of what was not understood. Three things are kept apart:

    error      says by any of its fields that something is wrong: raised, in its own kind
    hole       began like a frame and cannot be read, or holds text that has no place: raised
    foreign    any other object or line: `[DONE]` alone does not complete an answer that has one

A stop proves nothing before the first text, and nothing any more once text has followed one: then
only the end of the stream does. So after a stop the decoder reads on; `has_ended` says that the
text is whole as far as anybody knows, `is_complete` that nothing can follow.

There are three paths: typed decoding of a piece of text, straight from the bytes; the same of the
other usual frames; and a patient one for lone surrogates, bytes that are no UTF-8, frames without a
blank line between them, and JSON that stands in the stream as it is. A whole completion in place of
a stream is such JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from darkq.event import Usage
from darkq.sse import STRAY, EventDecoder, ServerSentEvent, SSEError
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    End,
    ProtocolViolation,
    Rejected,
    Truncated,
    UnknownModel,
    UpstreamError,
)
from darkq_worker.upstreams.http_errors import clean, quotable, reported_error
from darkq_worker.upstreams.openai_errors import Reported, find_error, hidden, read_error
from darkq_worker.upstreams.openai_frames import (
    BROKEN,
    Choice,
    Frame,
    OddContent,
    decode_frame,
    decode_plain,
    find_meaning,
    first_with,
    holds_text,
    is_nothing,
    read_text,
    read_usage,
    shown,
)

MAX_LINE_BYTES = 4 << 20
MAX_LINES_TRIED = 64
MAX_QUOTE_CHARS = 120
_DONE: Final = frozenset(("[DONE]", '"[DONE]"', "[done]"))
_KEEP_ALIVES: Final = frozenset(("ping", "keepalive", "keep-alive", "keep_alive", "heartbeat"))
_DATA_PREFIX = re.compile(r"(?:\s*data\s*:)*\s*", re.IGNORECASE)
_ERROR_PREFIX = re.compile(r"\s*error\s*:\s*", re.IGNORECASE)
_FIELDS: Final = ("data", "event", "retry")
_NO_FRAME: Final = Frame()
_decode_json = json.JSONDecoder(strict=False).decode
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class AnswerDecoder:
    """Reads one answer.

    `got_frame` says whether the last chunk held more than keep-alives. `unknown_reason` is a finish
    reason that is in no table, if the service gave one. `secret` is kept out of all errors; `model`
    is the one that was asked for, and `models` are those that the service has.
    """

    def __init__(
        self,
        *,
        prompt: str = "",
        secret: str = "",
        model: str = "",
        models: Sequence[str] = (),
        retry_after_s: float | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self.has_ended = False
        self.is_complete = False
        self.got_frame = False
        self.unknown_reason = ""
        self._prompt = prompt
        self._secret = secret
        self._model = model
        self._models = models
        self._retry_after_s = retry_after_s
        self._max_bytes = max_line_bytes
        self._chars = 0
        self._whole: str | None = None  # the text of a whole completion, which may come again
        self._reason = ""
        self._reason_is_latest = False  # no text has come since
        self._stops_early = False
        self._usage: Usage | None = None
        self._understood = False
        self._foreign = ""
        self._late: UpstreamError | None = None  # what was wrong after a stop
        self._open_json = bytearray()  # JSON of several lines, as far as it has come
        self._json_lines = 0
        self._at_eof = False
        self._events = EventDecoder(
            max_line_bytes=max_line_bytes, max_event_bytes=max_line_bytes, keeps_strays=True
        )

    @property
    def end(self) -> End:
        """How it ended, once it has."""
        return End(finish_reason=self._reason or "stop", usage=self._usage)

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the pieces of text in `chunk`. Iterate to the end before the next call.

        Raises `UpstreamError`, after the text before the fault.
        """
        self.got_frame = False
        expects_text = not self.has_ended  # after a stop, no time is spent on what rarely comes
        try:
            for event in self._events.feed(chunk):
                if expects_text and event.event != "error":
                    try:
                        text = decode_plain(event.data).choices[0].delta.content
                    except _UNDECODABLE:
                        pass
                    else:
                        self.got_frame = self._understood = True
                        if text:
                            self._take(text)
                            yield text
                        continue
                yield from self._feed_other(event)
                if self.is_complete:
                    return
                expects_text = not self.has_ended
        except SSEError as error:
            self._fail(ProtocolViolation(f"the upstream sent {error}", status=200))
            self.is_complete = True

    def feed_eof(self) -> list[str]:
        """Say that nothing more comes; return the text that an unfinished last event held.

        Raises `UpstreamError` unless the answer is complete.
        """
        if self.is_complete:
            return []
        self._at_eof = True
        texts = [*self.feed(b"\n\n"), *self._close_json()]
        if not self.is_complete:
            if not self.has_ended and not self._reason_is_latest:
                raise self._cut_off()
            self._done()
        return texts

    def _feed_other(self, event: ServerSentEvent) -> Iterator[str]:
        """Read what is not a piece of text alone: the end, the counts, and everything odd."""
        if event.data == b"[DONE]" and event.event != "error":
            self._done()
            return
        try:
            frame = decode_frame(event.data)
        except _UNDECODABLE:
            frame = _NO_FRAME
        if not _is_usual(frame) or event.event == "error":
            yield from self._feed_patiently(event)
            return
        self.got_frame = True
        if text := self._apply(frame):
            yield text

    def _feed_patiently(self, event: ServerSentEvent) -> Iterator[str]:
        """Read what is none of the usual frames."""
        text = event.data.decode(errors="replace")
        if event.event == STRAY:
            yield from self._feed_stray(text)
            return
        is_error = event.event == "error"
        if event.event in _KEEP_ALIVES:
            return
        value = _parsed(text)
        # A blank line may be missing: then each line is read by itself.
        lines = [text] if value is not None else text.split("\n", MAX_LINES_TRIED)
        for line in lines:
            if not self.is_complete:
                yield from self._feed_line(line, is_error=is_error)

    def _feed_stray(self, line: str) -> Iterator[str]:
        """Read a line that stands in the stream as no field of it."""
        if self._open_json:
            self._open_json += line.encode() + b"\n"
            if len(self._open_json) > self._max_bytes:
                raise ProtocolViolation("the upstream sent JSON that is too long", status=200)
            self._json_lines += line.startswith(("}", "]"))
            if line.startswith(("}", "]")) and self._json_lines <= MAX_LINES_TRIED:
                yield from self._close_json()
        elif prefix := _ERROR_PREFIX.match(line):
            yield from self._feed_line(line[prefix.end() :], is_error=True)
        elif line.lstrip().startswith(("{", "[")) and line.strip() not in _DONE:
            self._open_json += line.encode() + b"\n"
            self._json_lines = 0
            yield from self._close_json()
        elif line.lstrip().startswith("<") and not self._chars:
            self._fail(ProtocolViolation("HTTP 200, but an HTML page, no answer", status=200))
        elif not (self._at_eof and any(field.startswith(line) for field in _FIELDS)):
            yield from self._feed_line(line, is_error=False)

    def _close_json(self) -> Iterator[str]:
        """Read the JSON that has come together; what is not whole stays, until the end."""
        text = self._open_json.decode(errors="replace")
        if _parsed(text) is not None or (self._at_eof and text):
            self._open_json.clear()
            yield from self._feed_line(text, is_error=False)

    def _feed_line(self, line: str, *, is_error: bool) -> Iterator[str]:
        """Read one piece of data by what it says."""
        prefix = _DATA_PREFIX.match(line)
        line = line[prefix.end() if prefix else 0 :].rstrip()
        if not line or line.startswith(":"):  # some routers send comments as data
            return
        if line in _DONE and not is_error:
            self._done()
            return
        value = _parsed(line)
        each_of = value if isinstance(value, list) else [value]  # Gemini's errors come in a list
        objects = [each for each in each_of if isinstance(each, dict)]
        if is_error:
            self._fail(self._error(read_error(line if value is None else value)))
        elif objects and len(objects) == len(each_of):
            for each in objects:
                if text := self._read_object(each, line):
                    yield text
        elif value is None and line.startswith(("{", "[")):
            self._fail(self._hole(line))
        else:
            self.got_frame = True
            self._foreign = self._foreign or line

    def _read_object(self, value: dict[str, Any], line: str) -> str:
        """Take note of an object, frame or not; return its text."""
        if value.get("type") in _KEEP_ALIVES:
            return ""
        self.got_frame = True
        error = find_error(value, beside_choices=bool(value.get("choices")))
        if error is not None:
            self._fail(self._error(error))
            return ""
        if "choices" not in value and "usage" not in value and "x_groq" not in value:
            if holds_text(value):
                self._fail(self._hole(line))
            self._foreign = self._foreign or line
            return ""
        try:
            return clean(self._apply(msgspec.convert(value, Frame)))
        except (msgspec.ValidationError, RecursionError):
            self._fail(self._hole(line))
            return ""

    def _apply(self, frame: Frame) -> str:
        """Take note of a frame; return its text."""
        self._understood = True
        if frame.usage is not None:
            self._usage = read_usage(frame.usage, self._usage)
        if isinstance(frame.x_groq, dict):
            self._usage = read_usage(frame.x_groq.get("usage"), self._usage)
        if not frame.choices:
            return ""
        choice = frame.choices[0]
        delta, reason = choice.delta, choice.finish_reason
        content = delta.content if delta is not None else None
        is_only = len(frame.choices) == 1
        if is_only and type(content) is str and content:
            text = content
        elif is_only and content in (None, "") and delta is not None and choice.message is None:
            text = ""
        else:
            text = self._read_choices(frame.choices)
            reason = first_with(frame.choices, "finish_reason")
        if choice.error:
            self._fail(self._error(read_error(choice.error)))
        if text:
            self._take(text)
        if reason:
            self._finish(reason)
        if choice.usage is not None:  # Moonshot's
            self._usage = read_usage(choice.usage, self._usage)
        return text

    def _read_choices(self, choices: list[Choice]) -> str:
        """Return the text of a frame's choice: the first that has any. There is but one."""
        try:
            for choice in choices:
                if text := self._read_choice(choice):
                    return text
        except OddContent as odd:
            self._fail(self._hole(json.dumps(odd.args[0])))
        return ""

    def _read_choice(self, choice: Choice) -> str:
        if choice.delta is not None and (text := read_text(choice.delta.content)):
            return text
        if choice.message is None:
            return read_text(choice.text) if choice.delta is None else ""
        message = choice.message
        whole = read_text(message.get("content") if isinstance(message, dict) else message)
        if not whole or (choice.delta is not None and (self._chars or not choice.finish_reason)):
            return ""  # the sum of the deltas up to here
        if not self._chars:
            self._whole = whole
            return whole
        if whole != self._whole and (self._whole is not None or len(whole) != self._chars):
            raise OddContent(message)  # it does not repeat the text, so what is it
        return ""

    def _take(self, text: str) -> None:
        """Take note that text has come. After a stop it shows that a stop ends nothing here."""
        if self._reason:
            self._stops_early = True
            self.has_ended = False
            self._reason_is_latest = False
            if self._late is not None:
                raise self._late
        self._chars += len(text)

    def _finish(self, reason: object) -> None:
        """Take note of a finish reason."""
        if is_nothing(reason):
            return
        word = reason if isinstance(reason, str) else json.dumps(reason)
        meaning = find_meaning(word)
        if meaning == BROKEN:
            said = f"the upstream broke its answer off: finish_reason {shown(word)!r}"
            self._fail(Reported(codes=(word,)).kind(said, status=200))
        if meaning == BROKEN or self.has_ended or (meaning is None and self._has_good_reason):
            return
        self._reason = meaning or shown(word)
        self._reason_is_latest = True
        if meaning is None:
            self.unknown_reason = self._reason
        elif self._chars and not self._stops_early:
            self._close_text()

    @property
    def _has_good_reason(self) -> bool:
        """Tell whether a finish reason that is known to be good follows the last text."""
        return self._reason_is_latest and self._reason != self.unknown_reason

    def _close_text(self) -> None:
        """A good reason has come: the text is whole if nothing in it is missing."""
        if self._open_json:
            self._fail(self._hole(self._open_json.decode(errors="replace")))
        self.has_ended = True

    def _done(self) -> None:
        """Nothing more follows: judge what has come. Raises `UpstreamError`."""
        if self._open_json:
            self._fail(self._hole(self._open_json.decode(errors="replace")))
        if self._foreign and not self.has_ended and not (self._has_good_reason and self._chars):
            raise self._not_understood()
        if not self._chars and self._reason in ("length", "content_filter"):
            why = f"the upstream sent no text: {self._reason}"
            raise Rejected(why, status=200)  # and would send none again
        if not self._chars:
            raise EmptyAnswer("the upstream sent no text", status=200)
        self.has_ended = self.is_complete = True

    def _fail(self, error: UpstreamError) -> None:
        """Raise an error, unless the text is whole: then it waits for text that may still come."""
        if not self.has_ended:
            raise error
        self._late = self._late or error

    def _hole(self, line: str) -> UpstreamError:
        where = "the stream ended in the middle of" if self._at_eof else "this cannot be read"
        return Truncated(f"{where}: {self._quote(line)}", status=200)

    def _cut_off(self) -> UpstreamError:
        if self._foreign:
            return self._not_understood()
        return Truncated("the stream ended before the upstream said so", status=200)

    def _not_understood(self) -> UpstreamError:
        quote = self._quote(self._foreign)
        if self._understood or self._chars:
            why = "the upstream did not say that its answer is whole, but"
            return Truncated(f"{why}: {quote}", status=200)
        return ProtocolViolation(f"HTTP 200, but no answer: {quote}", status=200)

    def _quote(self, words: str) -> str:
        quote = quotable(hidden(words, self._secret), self._prompt)
        return quote if len(quote) <= MAX_QUOTE_CHARS else quote[:MAX_QUOTE_CHARS] + "…"

    def _error(self, said: Reported) -> UpstreamError:
        if self._model and said.is_about_model(said.status):
            known = [name for name in self._models if name != self._model]
            return UnknownModel(self._model, known, said=self._quote(said.detail))
        return reported_error(
            hidden(said.detail, self._secret),
            self._prompt,
            kind=said.kind,
            retry_after_s=said.wait_s if self._retry_after_s is None else self._retry_after_s,
        )


def _is_usual(frame: Frame) -> bool:
    """Tell whether a frame has nothing but choices, or nothing but counts beside an empty list."""
    return (
        frame.choices is not None
        and (bool(frame.choices) or frame.usage is not None)
        and not frame.error
        and not frame.error_code
    )


def _parsed(text: str) -> Any:
    """Return the value of JSON; None for null and for what is none."""
    try:
        return _decode_json(text)
    except (ValueError, RecursionError):
        return None
