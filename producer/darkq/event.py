"""The events of a job, as frozen data.

The id of an event, `<attempt>-<seq>`, is its position in the job's event log, a `Cursor`. Attempt
0 is the queue. Attempt a begins with `started`, `a-0`; then come its pieces, `a-1 …`, and one
`retrying` or terminal event. The log and the channel have the same JSON bytes:

    {"type":"chunk","id":"1-4","text":"…"}

A piece is a part of what the model says: text, reasoning, a tool call or a refusal.

A `started` with a higher attempt invalidates all earlier text.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeAlias, get_args

import msgspec

_CURSOR = re.compile(rb"(0|[1-9]\d{0,14})-(0|[1-9]\d{0,14})")


class Cursor(NamedTuple):
    """A position in an event log. Ordered by attempt, then by sequence number."""

    attempt: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> Cursor:
        """Read `<attempt>-<seq>`. Raises `ValueError`."""
        match = _CURSOR.fullmatch(text.encode() if isinstance(text, str) else text)
        if match is None:
            raise ValueError(f"not a cursor: {text!r}; expected <attempt>-<seq>, as in 1-42")
        return cls(int(match[1]), int(match[2]))

    def precedes(self, other: Cursor) -> bool:
        """Return whether `other` is the next position, so that no event is between the two.

        False across attempts: only the log has the number of events of an attempt.
        """
        return other.attempt == self.attempt and other.seq == self.seq + 1

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


START = Cursor(0, 0)
"""The position before all events."""


class _Base(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    id: str

    @property
    def cursor(self) -> Cursor:
        """The event's position in the log."""
        return Cursor.parse(self.id)


class Queued(_Base, frozen=True, kw_only=True, tag="queued"):
    """The job was stored. `at_ms` is the producer's clock, epoch milliseconds."""

    at_ms: int


class Started(_Base, frozen=True, kw_only=True, tag="started"):
    """An attempt began; it invalidates all text of earlier attempts.

    `traceparent` is the W3C context of its span, if the worker traces.
    """

    attempt: int
    model: str
    upstream: str
    at_ms: int
    traceparent: str = ""


class _TextPiece(_Base, frozen=True, kw_only=True, omit_defaults=True):
    text: str
    merged: int = 1
    at_ms: int = 0

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(id={self.id!r}, chars={len(self.text)}, merged={self.merged})"


class Chunk(_TextPiece, frozen=True, kw_only=True, omit_defaults=True, tag="chunk"):
    """A piece of the answer's text: `merged` chunks of the upstream in one event.

    Only the first piece of an attempt has the time of its arrival: `at_ms`, epoch milliseconds.
    `logprobs` and `annotations` are those of this piece, as the upstream sent them.
    """

    logprobs: dict[str, Any] | None = None
    annotations: list[Any] | None = None


class Reasoning(_TextPiece, frozen=True, kw_only=True, omit_defaults=True, tag="reasoning"):
    """A piece of the model's reasoning, which is not part of the answer's text."""


class ToolCall(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="tool_call"):
    """A piece of a call of a tool: `arguments` is a part of a JSON text.

    The pieces of a call have the same `index`, from 0. Only the first one has `call_id` and `name`.
    """

    index: int
    arguments: str = ""
    call_id: str = ""
    name: str = ""
    merged: int = 1
    at_ms: int = 0

    def __repr__(self) -> str:
        return f"ToolCall(id={self.id!r}, index={self.index}, chars={len(self.arguments)})"


class Refusal(_TextPiece, frozen=True, kw_only=True, omit_defaults=True, tag="refusal"):
    """A piece of the model's refusal to answer, which it sends instead of text."""


class Retrying(_Base, frozen=True, kw_only=True, tag="retrying"):
    """The attempt ended without an answer; the next one begins in `retry_in_s` seconds.

    `reason` is for programs, `message` for people.
    """

    attempt: int
    reason: str
    retry_in_s: float
    at_ms: int
    message: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Token counts, if the upstream reports them.

    The details are parts of these counts with the upstream's names, such as `cached_tokens` and
    `reasoning_tokens`.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, int] | None = None
    completion_tokens_details: dict[str, int] | None = None


class Completed(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="completed"):
    """The upstream has completed the answer; the result is stored."""

    finish_reason: str = "stop"
    usage: Usage | None = None
    at_ms: int = 0


class Failed(_Base, frozen=True, kw_only=True, tag="failed"):
    """No answer and no further attempt. `code` is for programs, `message` for people."""

    code: str
    message: str
    at_ms: int


class Cancelled(_Base, frozen=True, kw_only=True, tag="cancelled"):
    """The job was cancelled; the connection to the upstream was closed before this event."""

    at_ms: int


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a newer version of darkq, of which only the id and the type are read."""

    id: str
    type: str

    @property
    def cursor(self) -> Cursor:
        """The event's position in the log."""
        return Cursor.parse(self.id)


Piece: TypeAlias = Chunk | Reasoning | ToolCall | Refusal
Terminal: TypeAlias = Completed | Failed | Cancelled
Event: TypeAlias = Queued | Started | Piece | Retrying | Terminal
AnyEvent: TypeAlias = Event | Unknown

PIECES = (Chunk, Reasoning, ToolCall, Refusal)
TERMINAL = (Completed, Failed, Cancelled)

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_unknown_decoder = msgspec.json.Decoder(Unknown)
_encoder = msgspec.json.Encoder()


def encode(event: AnyEvent) -> bytes:
    """Return the event as JSON, as in the log and on the channel."""
    return _encoder.encode(event)


def decode(data: bytes) -> AnyEvent:
    """Read an event. A type of a newer version becomes `Unknown`.

    Raises `msgspec.ValidationError` or `msgspec.DecodeError` if `data` is not an event.
    """
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError:
        event = _unknown_decoder.decode(data)
        if event.type in _KNOWN_TYPES:
            raise
        return event


_KNOWN_TYPES = frozenset(kind.__struct_config__.tag for kind in get_args(Event))
