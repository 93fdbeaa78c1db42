"""The history of an attempt gives back each of its events, after any cursor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq import event as ev
from darkq.event import START, AnyEvent, Cursor
from darkq.protocol.history import check, read_beginning, read_end, read_rest
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import (
    Details,
    History,
    ResultRecord,
    Stretch,
    decode_result,
    encode,
)
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
    check(ended.record, ended.history)
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


STARTED = msgspec.Raw(ev.encode(ev.Started(id="3-0", attempt=3, model="m", upstream="u", at_ms=1)))
WRONG: dict[str, dict[str, object]] = {
    "a text too short": {"stretches": (Stretch("chunk", 0, "##"),)},
    "a text too long": {"stretches": (Stretch("chunk", 0, "())"),)},
    "an empty stretch": {"stretches": (Stretch("chunk", 0, ""), Stretch("chunk", 0, "(("))},
    "no stretch": {"stretches": ()},
    "another kind": {"stretches": (Stretch("video", 0, "(("),)},
    "a call too many": {"stretches": (Stretch("chunk", 0, "(("), Stretch("tool_call", 0, "#"))},
    "no kept event": {"stretches": (Stretch("event", 0, "(("),)},
    "no digits": {"stretches": (Stretch("chunk", 0, "( ("),)},
    "letters": {"stretches": (Stretch("chunk", 0, "((é"),)},
    "a size without an end": {"stretches": (Stretch("chunk", 0, "((~"),)},
    "a size too large": {"stretches": (Stretch("chunk", 0, "((" + "~" * 100_000 + "$"),)},
    "counts of fewer events": {"merged": "$"},
    "no event": {"started": msgspec.Raw(b'{"hunter2": 1}')},
    "no cursor": {"started": msgspec.Raw(b'{"type": "chunk", "id": "hunter2", "text": ""}')},
    "another attempt": {"started": msgspec.Raw(bytes(STARTED).replace(b"3-0", b"2-0"))},
    "a foreign log": {"earlier": (msgspec.Raw(b"5"),)},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_history_that_does_not_fit_its_record_is_refused(wrong: str) -> None:
    """Red with a wrong text, an endless calculation or an error of Python."""
    record = write([["12345"], ["67890"]]).record
    good = History(started=STARTED, stretches=(Stretch("chunk", 0, "(("),))
    check(record, good)
    with pytest.raises((ValueError, LookupError, msgspec.MsgspecError)):
        check(record, msgspec.structs.replace(good, **WRONG[wrong]))


@given(flushes, st.integers(0), st.binary(max_size=3), st.integers(0, 4))
def test_a_damaged_history_is_refused_or_gives_all_events(
    flushes: list[list[AnyPiece]], place: int, bytes_: bytes, cut: int
) -> None:
    ended = write(flushes)
    whole = msgspec.json.encode(ended.history)
    place %= len(whole)
    damaged = whole[:place] + bytes_ + whole[place + cut :]
    try:
        history = msgspec.json.decode(damaged, type=History)
        check(ended.record, history)
    except (ValueError, LookupError, msgspec.MsgspecError):
        return
    events = list(read_rest(ended.record, history, START))
    assert [event.id for event in events[:-1]] == [
        f"3-{n}" for n in range(1, read_end(ended.record, history).seq)
    ]
    text = "".join(event.text for event in events if isinstance(event, ev.Chunk))
    assert len(text) == len(str(ended.record.r))  # a letter of a kept event may be another


def test_a_text_is_stored_once() -> None:
    words = [f"word{n} " for n in range(400)]
    record = write([[word] for word in words]).record
    alone = msgspec.structs.replace(record, h=msgspec.UNSET)
    assert len(encode(record)) - len(encode(alone)) < 400 + 200
