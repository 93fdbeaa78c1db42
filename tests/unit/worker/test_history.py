"""The history of an attempt gives back each of its events, after any cursor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from darkq import event as ev
from darkq.event import START, AnyEvent, Cursor
from darkq.protocol.history import read_beginning, read_end, read_rest
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import Details, History, ResultRecord, decode_result, encode
from darkq.telemetry.metrics import Tally
from darkq_worker.pieces import AnyPiece, Piece, assemble
from darkq_worker.writing.attempt_log import AttemptLog, Budget

KEYS = JobKeys.new(0)
texts = st.text(min_size=1, max_size=3) | st.text("é😀\n", min_size=60, max_size=80)
tool_calls = st.builds(
    Piece,
    kind=st.just("tool_call"),
    index=st.integers(0, 2),
    text=st.text(max_size=3),
    call_id=st.sampled_from(["", "", "call_7"]),
    name=st.sampled_from(["", "", "find"]),
)
pieces = st.one_of(
    *(texts, texts, texts),
    st.builds(Piece, kind=st.sampled_from(["chunk", "reasoning", "refusal"]), text=texts),
    st.builds(Piece, kind=st.just("chunk"), text=texts, annotations=st.just([{"url": "u"}])),
    st.builds(
        Piece, kind=st.just("chunk"), text=st.text(max_size=2), logprobs=st.just({"content": [1]})
    ),
    tool_calls,
    tool_calls,
)
flushes = st.lists(st.lists(pieces, min_size=1, max_size=4), max_size=12)


@dataclass
class Ended:
    """What is left of an attempt, and all events that it had."""

    record: ResultRecord
    events: list[AnyEvent]

    @property
    def history(self) -> History:
        assert isinstance(self.record.h, History)
        return self.record.h

    def read(self, after: Cursor = START) -> list[AnyEvent]:
        beginning = [event for event in read_beginning(self.history) if event.cursor > after]
        return [*beginning, *read_rest(self.record, self.history, after)]


def write(flushes: Sequence[Sequence[AnyPiece]], attempt: int = 3) -> Ended:
    """Write an answer as a worker does, some pieces at a time, to its end."""
    log = AttemptLog(
        KEYS,
        attempt,
        "token",
        Budget(1 << 20),
        Tally(),
        on_work=lambda _: None,
        on_lost=lambda: None,
        max_event_chars=150,
    )
    log.start(model="m", upstream="u", at_ms=1, traceparent="00-a-b-01")
    for pieces in flushes:
        for piece in pieces:
            log.add(piece)
        log.seal()
    sealed, at = log.close()
    events: list[AnyEvent] = [ev.decode(entry.event) for entry in log.seal()]
    events.append(ev.Completed(id=str(at), finish_reason="stop", at_ms=9))
    text, beyond = assemble(sealed)
    record = ResultRecord(
        t=attempt,
        et=1,
        s=True,
        st=2,
        ft=9,
        q="q",
        id=KEYS.arq_id,
        d=Details(outcome="completed", finish_reason="stop", first_chunk_ms=log.first_chunk_ms),
        r=text,
        b=beyond,
        h=log.make_history(),
    )
    return Ended(decode_result(encode(record)), events)


@given(flushes)
def test_each_event_is_as_it_was(flushes: list[list[AnyPiece]]) -> None:
    ended = write(flushes)
    assert ended.read() == ended.events
    assert [ev.encode(event) for event in ended.read()] == [ev.encode(e) for e in ended.events]
    assert read_end(ended.record, ended.history) == ended.events[-1].cursor


@given(flushes, st.integers(0, 60))
def test_any_cursor_continues_with_the_next_event(
    flushes: list[list[AnyPiece]], place: int
) -> None:
    ended = write(flushes)
    place %= len(ended.events)
    assert ended.read(ended.events[place].cursor) == ended.events[place + 1 :]


def test_a_text_is_stored_once() -> None:
    words = [f"word{n} " for n in range(400)]
    record = write([[word] for word in words]).record
    alone = msgspec.structs.replace(record, h=msgspec.UNSET)
    assert len(encode(record)) - len(encode(alone)) < 400 + 200
