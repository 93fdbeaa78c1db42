"""The event log of a completed job in one piece: its answer, and where each event began. No I/O.

    answer    Hello, world!  I am …
    sizes     5    2 6     3 1 …         one character per event, two for a long one

While a job runs, its log has an entry for each event. When it completes, its result has all of the
text, so the entries are deleted, and the result keeps a `History`: the rest of what the log had.
From both, each event is made again exactly as it was, so that any cursor remains valid.

The kind of consecutive events is written once (`Stretch`). An event that has more than a part of
the answer's texts, such as log probabilities, is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat

from darkq import event as ev
from darkq.event import AnyEvent, Cursor
from darkq.protocol.answer_events import build_terminal_event
from darkq.protocol.record import BeyondText, FunctionCall, History, ResultRecord

VERBATIM = "event"
"""The kind of a stretch whose events are kept as they are."""

# All printable ASCII characters that JSON leaves as they are. The first ones end a number; each of
# the others is a digit before the end, the lowest one first.
_DIGITS = [chr(code) for code in range(0x23, 0x7F) if code != ord("\\")]
_BASE = 26
_ENDS = len(_DIGITS) - _BASE
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}


def pack(numbers: Iterable[int]) -> str:
    """Return numbers, from 0, as text: one character for those up to 64, two up to 1,689."""
    digits: list[str] = []
    for number in numbers:
        while number >= _ENDS:
            digits.append(_DIGITS[_ENDS + number % _BASE])
            number //= _BASE  # noqa: PLW2901
        digits.append(_DIGITS[number])
    return "".join(digits)


def unpack(packed: str) -> Iterator[int]:
    """Yield the numbers of `pack`. Raises `ValueError` if the text is not of `pack`."""
    number, scale = 0, 1
    for digit in packed:
        value = _VALUES.get(digit)
        if value is None:
            raise ValueError("not packed numbers")
        if value < _ENDS:
            yield number + value * scale
            number, scale = 0, 1
        else:
            number += (value - _ENDS) * scale
            scale *= _BASE
    if scale > 1:
        raise ValueError("the last number is not complete")


def read_beginning(history: History) -> list[AnyEvent]:
    """Return the events before the first piece: those of earlier attempts, then `started`."""
    return [ev.decode(raw) for raw in (*history.earlier, history.started)]


def read_end(record: ResultRecord, history: History) -> Cursor:
    """Return the cursor of the terminal event."""
    pieces = sum(1 for stretch in history.stretches for _ in unpack(stretch.sizes))
    return Cursor(record.t, pieces + 1)


def read_rest(record: ResultRecord, history: History, after: Cursor) -> Iterator[AnyEvent]:
    """Yield the pieces and the terminal event after a cursor that is not beyond the end."""
    begin = after.seq + 1 if after.attempt == record.t else 1
    merged = unpack(history.merged) if history.merged else repeat(1)
    verbatim = map(ev.decode, history.verbatim)
    texts = _Texts(record)
    number = 0
    for stretch in history.stretches:
        # The sizes come first: the other iterator must not lose a number at the end of a stretch.
        sizes = zip(unpack(stretch.sizes), merged, strict=False)
        if stretch.kind == VERBATIM:
            for size, _ in sizes:
                number += 1
                event = next(verbatim)
                texts.find(*_place(event)).skip(size)
                if number >= begin:
                    yield event
            continue
        text = texts.find(stretch.kind, stretch.index)
        for size, count in sizes:
            number += 1
            if number < begin:
                text.skip(size)
            else:
                at_ms = record.d.first_chunk_ms if number == 1 else 0
                yield text.take(f"{record.t}-{number}", size, count, at_ms)
    if number + 1 >= begin:
        yield build_terminal_event(record, Cursor(record.t, number + 1))


def _place(piece: AnyEvent) -> tuple[str, int]:
    if isinstance(piece, ev.ToolCall):
        return "tool_call", piece.index
    return type(piece).__name__.lower(), 0


class _Texts:
    """The texts of an answer, by kind and, for those of tool calls, index."""

    def __init__(self, record: ResultRecord) -> None:
        beyond = record.b or BeyondText()
        answer = record.r if isinstance(record.r, str) else ""
        self._texts = {
            ("chunk", 0): _Text("chunk", answer),
            ("reasoning", 0): _Text("reasoning", beyond.reasoning),
            ("refusal", 0): _Text("refusal", beyond.refusal),
        }
        # A result has its calls in the order in which they began.
        self._calls = iter(beyond.tool_calls)

    def find(self, kind: str, index: int) -> _Text:
        """Return a text, and where its next piece begins."""
        if (text := self._texts.get((kind, index))) is None:
            call = next(self._calls)
            text = self._texts[kind, index] = _Text(kind, call.arguments, index, call)
        return text


class _Text:
    __slots__ = ("_at", "_call", "_index", "_kind", "_text")

    def __init__(
        self, kind: str, text: str, index: int = 0, call: FunctionCall | None = None
    ) -> None:
        self._kind = kind
        self._text = text
        self._index = index
        self._call = call
        self._at = 0

    def skip(self, size: int) -> None:
        self._at += size
        self._call = None

    def take(self, id_: str, size: int, merged: int, at_ms: int) -> ev.Piece:
        """Return the next piece."""
        text = self._text[self._at : self._at + size]
        self._at += size
        match self._kind:
            case "chunk":
                return ev.Chunk(id=id_, text=text, merged=merged, at_ms=at_ms)
            case "reasoning":
                return ev.Reasoning(id=id_, text=text, merged=merged, at_ms=at_ms)
            case "refusal":
                return ev.Refusal(id=id_, text=text, merged=merged, at_ms=at_ms)
        call, self._call = self._call, None
        return ev.ToolCall(
            id=id_,
            index=self._index,
            arguments=text,
            call_id=call.id if call else "",
            name=call.name if call else "",
            merged=merged,
            at_ms=at_ms,
        )
