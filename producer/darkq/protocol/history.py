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

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, count, islice, pairwise, repeat

from msgspec.structs import replace

from darkq import event as ev
from darkq.event import AnyEvent, Cursor
from darkq.protocol.answer_events import build_terminal_event, count_chars
from darkq.protocol.record import BeyondText, History, ResultRecord, Stretch

VERBATIM = "event"
"""The kind of a stretch whose events are kept as they are."""

# All printable ASCII characters that JSON leaves as they are. The first ones end a number; each of
# the others is a digit before the end, the lowest one first.
_DIGITS = bytes(code for code in range(0x23, 0x7F) if code != ord("\\"))
_BASE = 26
_ENDS = len(_DIGITS) - _BASE
_NO_DIGIT = 255
_VALUES = bytes(_DIGITS.find(code) % 256 for code in range(256))
_LAST_VALUES = bytes(range(_ENDS))
_MOST = 1 << 53


def pack(numbers: Iterable[int]) -> str:
    """Return numbers, from 0, as text: one character for those up to 64, two up to 1,689."""
    digits = bytearray()
    for number in numbers:
        rest = number
        while rest >= _ENDS:
            digits.append(_DIGITS[_ENDS + rest % _BASE])
            rest //= _BASE
        digits.append(_DIGITS[rest])
    return digits.decode()


def unpack(packed: str) -> Sequence[int]:
    """Return the numbers of a text from `pack`. Raises `ValueError` for another text."""
    values = packed.encode().translate(_VALUES)
    if not values.translate(None, delete=_LAST_VALUES):  # usually: numbers of one digit
        return values
    numbers, number, scale = [], 0, 1
    for value in values:
        if value < _ENDS:
            numbers.append(number + value * scale)
            number, scale = 0, 1
        elif value == _NO_DIGIT or scale > _MOST:
            raise ValueError("no packed numbers")
        else:
            number += (value - _ENDS) * scale
            scale *= _BASE
    if scale > 1:
        raise ValueError("a packed number without an end")
    return numbers


def check(record: ResultRecord, history: History) -> None:
    """Raise an error if not every event of a history can be read, each with its part of a text.

    Raises `ValueError`, `LookupError`, `msgspec.MsgspecError`.
    """
    beginning = [event.cursor for event in read_beginning(history)]
    texts, count = _Texts(record), 0
    verbatim = map(ev.decode, history.verbatim)
    for stretch in history.stretches:
        sizes = unpack(stretch.sizes)
        if stretch.kind == VERBATIM:
            kept = zip(islice(verbatim, len(sizes)), sizes, strict=True)
            for number, (event, size) in enumerate(kept, count + 1):
                if event.id != f"{record.t}-{number}" or count_chars(event) != size:
                    raise ValueError("another event")
                texts.pass_over(event, size)
        else:
            texts.take(stretch, sizes, len(sizes), (), ())
        if not sizes:
            raise ValueError("a stretch without an event")
        count += len(sizes)
    if beginning[-1] != (record.t, 0) or len(unpack(history.merged)) not in (0, count):
        raise ValueError("another number of events")
    texts.check_end()


def read_beginning(history: History) -> list[AnyEvent]:
    """Return the events before the first piece: those of earlier attempts, then `started`."""
    return [ev.decode(raw) for raw in (*history.earlier, history.started)]


def read_end(record: ResultRecord, history: History) -> Cursor:
    """Return the cursor of the terminal event."""
    return Cursor(record.t, 1 + sum(len(unpack(each.sizes)) for each in history.stretches))


def read_rest(record: ResultRecord, history: History, after: Cursor) -> Iterator[AnyEvent]:
    """Yield the pieces and the terminal event after a cursor that is not beyond the end."""
    seen = after.seq if after.attempt == record.t else 0
    merged = unpack(history.merged)
    verbatim = map(ev.decode, history.verbatim)
    texts = _Texts(record)
    end = 1
    for stretch in history.stretches:
        sizes = unpack(stretch.sizes)
        begin, end = end, end + len(sizes)
        skip = min(len(sizes), max(0, seen + 1 - begin))
        if stretch.kind == VERBATIM:
            events = list(islice(verbatim, len(sizes)))
            for event, size in zip(events, sizes, strict=True):
                texts.pass_over(event, size)
            yield from events[skip:]
            continue
        counts = merged[begin - 1 + skip : end - 1] or repeat(1)
        pieces = texts.take(stretch, sizes, skip, count(begin + skip), counts)
        if begin + skip == 1 and record.d.first_chunk_ms:
            pieces = chain([replace(next(pieces), at_ms=record.d.first_chunk_ms)], pieces)
        yield from pieces
    if end > seen:
        yield build_terminal_event(record, Cursor(record.t, end))


class _Texts:
    """The texts of an answer, and how far they were read."""

    def __init__(self, record: ResultRecord) -> None:
        beyond = record.b or BeyondText()
        self._attempt = record.t
        self._texts = {
            ("chunk", 0): record.r if isinstance(record.r, str) else "",
            ("reasoning", 0): beyond.reasoning,
            ("refusal", 0): beyond.refusal,
        }
        self._calls = iter(beyond.tool_calls)  # in the order in which they began
        self._read: Counter[tuple[str, int]] = Counter()

    def pass_over(self, piece: AnyEvent, size: int) -> None:
        """Note that a piece was read elsewhere."""
        if isinstance(piece, ev.ToolCall):
            self._read["tool_call", piece.index] += size
        else:
            self._read[type(piece).__name__.lower(), 0] += size

    def check_end(self) -> None:
        """Raise `ValueError` unless all texts were read, and no more."""
        is_read = all(self._read[place] == len(text) for place, text in self._texts.items())
        if not is_read or next(self._calls, None) is not None:
            raise ValueError("sizes that are not those of the texts")

    def take(
        self,
        stretch: Stretch,
        sizes: Sequence[int],
        skip: int,
        numbers: Iterable[int],
        merged: Iterable[int],
    ) -> Iterator[ev.Piece]:
        """Return the pieces of a stretch after the first `skip` ones."""
        place = stretch.kind, stretch.index
        call = None
        if stretch.kind == "tool_call" and place not in self._texts:
            if (call := next(self._calls, None)) is None:
                raise ValueError("a tool call that the answer does not have")
            self._texts[place] = call.arguments
        text, at, attempt = self._texts[place], self._read[place], self._attempt
        self._read[place] += sum(sizes)
        ends = pairwise(accumulate(sizes[skip:], initial=at + sum(sizes[:skip])))
        spans = zip(numbers, ends, merged, strict=False)
        if stretch.kind != "tool_call":
            make = _CLASSES[stretch.kind]
            return (
                make(id=f"{attempt}-{number}", text=text[begin:end], merged=count)
                for number, (begin, end), count in spans
            )
        calls: Iterator[ev.Piece] = (
            ev.ToolCall(
                id=f"{attempt}-{number}",
                index=stretch.index,
                arguments=text[begin:end],
                merged=count,
            )
            for number, (begin, end), count in spans
        )
        if call is None or skip:
            return calls
        return chain([replace(next(calls), call_id=call.id, name=call.name)], calls)


_CLASSES = {"chunk": ev.Chunk, "reasoning": ev.Reasoning, "refusal": ev.Refusal}
