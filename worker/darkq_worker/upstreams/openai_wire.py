"""Decodes answers of OpenAI's API, which many services offer: bytes in, pieces out. No I/O.

    choices[0].delta.content … → finish_reason → choices: [], usage → [DONE]

Each is an SSE event with one JSON object, except the last. Services differ in everything else, so
one rule decides about the end. An answer is complete if it has text, a tool call or a refusal, and

    - a known good finish reason follows its last piece, or
    - every frame was understood, and `[DONE]` arrives, or the stream ends after an unknown finish
      reason.

Anything else is `Truncated`, with a quote of what was not understood. Data that is not a usual
frame is one of these:

    error      one of its fields means an error: raised, with its own class
    hole       starts like a frame and cannot be read, or has text in an unknown field: raised
    foreign    any other object or line: with one, `[DONE]` alone does not complete the answer

A stop before the first text proves nothing, and neither does one after which more arrived: then
only the end of the stream ends the answer. So after a stop the decoder continues to read.
`has_ended` means that the answer is complete as far as known, `is_complete` that nothing follows.

There are three paths: typed decoding of pieces of text, straight from the bytes; typed decoding of
the other usual frames; and a tolerant path for lone surrogates, bytes that are not UTF-8, frames
without a blank line between them, and bare JSON in the stream, such as a whole completion instead
of a stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from darkq.event import Usage
from darkq.sse import STRAY, EventDecoder, ServerSentEvent, SSEError
from darkq_worker.pieces import AnyPiece
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    End,
    ProtocolViolation,
    Rejected,
    Truncated,
    UnknownModel,
    UpstreamError,
)
from darkq_worker.upstreams.http_errors import quotable, reported_error
from darkq_worker.upstreams.openai_errors import Reported, find_error, hide_secret, read_error
from darkq_worker.upstreams.openai_frames import (
    BROKEN,
    Choice,
    Delta,
    DeltaReader,
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
    sanitize,
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
    """Decodes one answer.

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
        self._deltas = DeltaReader()
        self._chars = 0  # of the text alone
        self._has_answer = False  # text, a tool call or a refusal has arrived
        self._whole: str | None = None  # the text of a whole completion, which may be repeated
        self._reason = ""
        self._reason_is_latest = False  # no text has arrived since
        self._stops_early = False
        self._usage: Usage | None = None
        self._understood = False
        self._foreign = ""
        self._late: UpstreamError | None = None  # an error after a stop
        self._open_json = bytearray()  # JSON of several lines, as far as received
        self._json_lines = 0
        self._at_eof = False
        self._events = EventDecoder(
            max_line_bytes=max_line_bytes, max_event_bytes=max_line_bytes, keeps_strays=True
        )

    @property
    def end(self) -> End:
        """The end of the answer, once it is complete."""
        return End(finish_reason=self._reason or "stop", usage=self._usage)

    def feed(self, chunk: bytes) -> Iterator[AnyPiece]:
        """Yield the pieces in `chunk`. Iterate to the end before the next call.

        Raises `UpstreamError`, after the pieces before the error.
        """
        self.got_frame = False
        expects_text = not self.has_ended  # text after a stop is rare: skip that path
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
                            if self._reason:
                                self._record_piece(text)
                            else:  # nearly always: spare the call
                                self._chars += len(text)
                                self._has_answer = True
                            yield text
                        continue
                yield from self._feed_other(event)
                if self.is_complete:
                    return
                expects_text = not self.has_ended
        except SSEError as error:
            self._fail(ProtocolViolation(f"the upstream sent {error}", status=200))
            self.is_complete = True

    def feed_eof(self) -> list[AnyPiece]:
        """Handle the end of the stream; return the pieces of an unfinished last event.

        Raises `UpstreamError` unless the answer is complete.
        """
        if self.is_complete:
            return []
        self._at_eof = True
        pieces = [*self.feed(b"\n\n"), *self._close_json()]
        if not self.is_complete:
            if self.has_ended or self._reason_is_latest:
                self._done()
            elif self._foreign:
                raise self._not_understood()
            else:
                raise Truncated("the stream ended before the upstream said so", status=200)
        return pieces

    def _feed_other(self, event: ServerSentEvent) -> Iterator[AnyPiece]:
        if event.data == b"[DONE]" and event.event != "error":
            self._done()
            return
        try:
            frame = decode_frame(event.data)
        except _UNDECODABLE:
            frame = _NO_FRAME
        if not _is_usual(frame) or event.event == "error":
            yield from self._feed_tolerantly(event)
            return
        self.got_frame = True
        yield from self._apply(frame)

    def _feed_tolerantly(self, event: ServerSentEvent) -> Iterator[AnyPiece]:
        text = event.data.decode(errors="replace")
        if event.event == STRAY:
            yield from self._feed_stray(text)
            return
        if event.event in _KEEP_ALIVES:
            return
        # A blank line may be missing, so that one event has several frames. Read each line.
        is_whole = _parsed(text) is not None
        for line in [text] if is_whole else text.split("\n", MAX_LINES_TRIED):
            if not self.is_complete:
                yield from self._feed_line(line, is_error=event.event == "error")

    def _feed_stray(self, line: str) -> Iterator[AnyPiece]:
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
        elif line.lstrip().startswith("<") and not self._has_answer:
            self._fail(ProtocolViolation("HTTP 200, but an HTML page, no answer", status=200))
        elif not (self._at_eof and any(field.startswith(line) for field in _FIELDS)):
            yield from self._feed_line(line, is_error=False)

    def _close_json(self) -> Iterator[AnyPiece]:
        """Read the collected JSON if it is whole, or at the end of the stream."""
        text = self._open_json.decode(errors="replace")
        if _parsed(text) is not None or (self._at_eof and text):
            self._open_json.clear()
            yield from self._feed_line(text, is_error=False)

    def _feed_line(self, line: str, *, is_error: bool) -> Iterator[AnyPiece]:
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
                yield from self._read_object(each, line)
        elif value is None and line.startswith(("{", "[")):
            self._fail(self._hole(line))
        else:
            self.got_frame = True
            self._foreign = self._foreign or line

    def _read_object(self, value: dict[str, Any], line: str) -> Sequence[AnyPiece]:
        if value.get("type") in _KEEP_ALIVES:
            return ()
        self.got_frame = True
        error = find_error(value, beside_choices=bool(value.get("choices")))
        if error is not None:
            self._fail(self._error(error))
            return ()
        if "choices" not in value and "usage" not in value and "x_groq" not in value:
            if holds_text(value):
                self._fail(self._hole(line))
            self._foreign = self._foreign or line
            return ()
        try:
            return self._apply(msgspec.convert(value, Frame))
        except (msgspec.ValidationError, RecursionError):
            self._fail(self._hole(line))
            return ()

    def _apply(self, frame: Frame) -> Sequence[AnyPiece]:
        self._understood = True
        if frame.usage is not None:
            self._usage = read_usage(frame.usage, self._usage)
        if isinstance(frame.x_groq, dict):
            self._usage = read_usage(frame.x_groq.get("usage"), self._usage)
        if not frame.choices:
            return ()
        pieces = self._read_choices(frame.choices)
        choice = frame.choices[0]
        reason = first_with(frame.choices, "finish_reason")
        if choice.error:
            self._fail(self._error(read_error(choice.error)))
        for piece in pieces:
            self._record_piece(piece)
        if reason:
            self._record_reason(reason)
        if choice.usage is not None:  # Moonshot's
            self._usage = read_usage(choice.usage, self._usage)
        return pieces

    def _read_choices(self, choices: list[Choice]) -> list[AnyPiece]:
        """Return the pieces of the first choice that has an answer, and reasoning before it.

        Only one choice is ever requested.
        """
        pieces: list[AnyPiece] = []
        try:
            for choice in choices:
                pieces += self._read_choice(choice)
                if any(isinstance(each, str) or each.kind != "reasoning" for each in pieces):
                    break
        except OddContent as odd:
            self._fail(self._hole(json.dumps(odd.args[0])))
        return pieces

    def _read_choice(self, choice: Choice) -> list[AnyPiece]:
        if choice.delta is not None:
            pieces = list(self._deltas.read(choice.delta, choice.logprobs))
            if pieces or choice.message is None:
                return pieces
        elif choice.message is None:
            return [text] if (text := read_text(choice.text)) else []
        return self._read_message(choice)

    def _read_message(self, choice: Choice) -> list[AnyPiece]:
        """Return the pieces of a whole message, unless it repeats the deltas so far."""
        if choice.delta is not None and (self._has_answer or not choice.finish_reason):
            return []
        message = choice.message
        whole = msgspec.convert(message, Delta) if isinstance(message, dict) else Delta(message)
        text = read_text(whole.content)
        if not self._has_answer:
            self._whole = text
            return list(self._deltas.read(whole, choice.logprobs))
        if text and text != self._whole and (self._whole is not None or len(text) != self._chars):
            raise OddContent(message)  # it differs from the deltas: part of the text is missing
        return []

    def _record_piece(self, piece: AnyPiece) -> None:
        """Record a piece. After a stop it shows that a stop of this service ends nothing."""
        kind, text = ("chunk", piece) if isinstance(piece, str) else (piece.kind, piece.text)
        if kind == "reasoning" or not (text or kind == "tool_call"):  # or annotations alone
            return
        if self._reason:
            self._stops_early = True
            self.has_ended = False
            self._reason_is_latest = False
            if self._late is not None:
                raise self._late
        if kind == "chunk":
            self._chars += len(text)
        self._has_answer = True

    def _record_reason(self, reason: object) -> None:
        if is_nothing(reason):
            return
        word = reason if isinstance(reason, str) else json.dumps(reason)
        meaning = find_meaning(word)
        if meaning == BROKEN:
            said = f"the upstream broke its answer off: finish_reason {sanitize(word)!r}"
            self._fail(Reported(codes=(word,)).kind(said, status=200))
        if meaning == BROKEN or self.has_ended or (meaning is None and self._has_good_reason):
            return
        self._reason = meaning or sanitize(word)
        self._reason_is_latest = True
        if meaning is None:
            self.unknown_reason = self._reason
        elif self._has_answer and not self._stops_early:
            self._fail_for_open_json()
            self.has_ended = True

    @property
    def _has_good_reason(self) -> bool:
        """True if a known good finish reason follows the last text."""
        return self._reason_is_latest and self._reason != self.unknown_reason

    def _fail_for_open_json(self) -> None:
        if self._open_json:
            self._fail(self._hole(self._open_json.decode(errors="replace")))

    def _done(self) -> None:
        """Complete the answer: nothing more follows. Raises `UpstreamError`."""
        self._fail_for_open_json()
        if (
            self._foreign
            and not self.has_ended
            and not (self._has_good_reason and self._has_answer)
        ):
            raise self._not_understood()
        if not self._has_answer:
            if self._reason in ("length", "content_filter"):  # a retry would return the same
                raise Rejected(f"the upstream sent no text: {self._reason}", status=200)
            raise EmptyAnswer("the upstream sent no text", status=200)
        self.has_ended = self.is_complete = True

    def _fail(self, error: UpstreamError) -> None:
        """Raise an error. After a complete text, keep it: it counts only if more text arrives."""
        if not self.has_ended:
            raise error
        self._late = self._late or error

    def _hole(self, line: str) -> UpstreamError:
        where = "the stream ended in the middle of" if self._at_eof else "this cannot be read"
        return Truncated(f"{where}: {self._quote(line)}", status=200)

    def _not_understood(self) -> UpstreamError:
        quote = self._quote(self._foreign)
        if self._understood or self._has_answer:
            why = "the upstream did not say that its answer is whole, but"
            return Truncated(f"{why}: {quote}", status=200)
        return ProtocolViolation(f"HTTP 200, but no answer: {quote}", status=200)

    def _quote(self, words: str) -> str:
        quote = quotable(hide_secret(words, self._secret), self._prompt)
        return quote if len(quote) <= MAX_QUOTE_CHARS else quote[:MAX_QUOTE_CHARS] + "…"

    def _error(self, said: Reported) -> UpstreamError:
        if self._model and said.is_about_model(said.status):
            known = [name for name in self._models if name != self._model]
            return UnknownModel(self._model, known, said=self._quote(said.detail))
        return reported_error(
            hide_secret(said.detail, self._secret),
            self._prompt,
            kind=said.kind,
            retry_after_s=said.wait_s if self._retry_after_s is None else self._retry_after_s,
        )


def _is_usual(frame: Frame) -> bool:
    return (
        frame.choices is not None
        and (bool(frame.choices) or frame.usage is not None)
        and not frame.error
        and not frame.error_code
    )


def _parsed(text: str) -> Any:
    """Return the value of a JSON text; None for null and for invalid JSON."""
    try:
        return _decode_json(text)
    except (ValueError, RecursionError):
        return None
