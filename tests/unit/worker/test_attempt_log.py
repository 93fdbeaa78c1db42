"""The writing end of an attempt: sealed for good, sent again at will, counted to the letter."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from darkq import event as ev
from darkq.event import Chunk, Cursor, Started
from darkq.protocol.keys import JobKeys
from darkq.telemetry.metrics import Tally
from darkq_worker.pieces import assemble
from darkq_worker.writing.attempt_log import AttemptLog, Budget


class Desk:
    """A log, its budget, and what it told."""

    def __init__(self, attempt: int = 1, *, max_event_chars: int = 64 << 10) -> None:
        self.budget = Budget(1000)
        self.tally = Tally()
        self.work = 0
        self.lost = 0
        self.log = AttemptLog(
            JobKeys.new(0),
            attempt,
            "token",
            self.budget,
            self.tally,
            on_work=self._on_work,
            on_lost=self._on_lost,
            max_event_chars=max_event_chars,
        )

    def _on_work(self, log: AttemptLog) -> None:
        assert log is self.log
        self.work += 1

    def _on_lost(self) -> None:
        self.lost += 1

    def start(self) -> None:
        self.log.start(model="m", upstream="u", at_ms=1)

    def seal(self) -> list[ev.AnyEvent]:
        return [ev.decode(entry.event) for entry in self.log.seal()]

    @property
    def held(self) -> int:
        return self.budget.spent


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_started_comes_first_then_the_text(desk: Desk) -> None:
    desk.start()
    assert desk.seal() == [Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=1)]
    desk.log.acknowledge(1)
    desk.log.add("a")
    came_ms = desk.log.first_chunk_ms
    assert desk.seal() == [Chunk(id="1-1", text="a", at_ms=came_ms)]
    assert abs(came_ms / 1000 - time.time()) < 60
    assert (desk.log.model, desk.log.upstream, desk.log.chunks) == ("m", "u", 1)


def test_waiting_pieces_become_one_event_with_their_count(desk: Desk) -> None:
    desk.start()
    for text in ("a", "b", "c"):
        desk.log.add(text)
    first = Chunk(id="1-1", text="abc", merged=3, at_ms=desk.log.first_chunk_ms)
    assert desk.seal()[1:] == [first]
    assert desk.log.chunks == 3


def test_sealed_event_is_unchanged_until_acknowledged(desk: Desk) -> None:
    desk.start()
    desk.log.add("a")
    first = desk.log.seal()
    desk.log.add("b")
    assert desk.log.seal()[:2] == first
    assert [entry.id for entry in desk.log.seal()] == ["1-0", "1-1", "1-2"]
    desk.log.acknowledge(2)
    assert [entry.id for entry in desk.log.seal()] == ["1-2"]


def test_event_size_is_bounded_and_a_longer_piece_is_one_event() -> None:
    desk = Desk(max_event_chars=5)
    desk.start()
    for text in ("abc", "de", "f", "ghijklmn", "o"):
        desk.log.add(text)
    desk.log.acknowledge(1)
    texts = []
    while desk.log.has_work:
        (event,) = desk.seal()
        assert isinstance(event, Chunk)
        texts.append((event.text, event.merged))
        desk.log.acknowledge(event.cursor.seq + 1)
    assert texts == [("abcde", 2), ("f", 1), ("ghijklmn", 1), ("o", 1)]
    assert desk.held == 0


def test_close_seals_all_text_and_returns_the_cursor_of_the_end() -> None:
    desk = Desk(max_event_chars=2)
    desk.start()
    for text in "abcde":
        desk.log.add(text)
    assert desk.log.close() == (["ab", "cd", "e"], Cursor(1, 4))
    assert [entry.id for entry in desk.log.seal()] == ["1-0", "1-1", "1-2", "1-3"]
    assert desk.log.close() == (["ab", "cd", "e"], Cursor(1, 4)), "the same, however often"


def test_attempt_without_started_event_ends_at_sequence_0(desk: Desk) -> None:
    assert desk.log.close() == ([], Cursor(1, 0))
    assert desk.log.seal() == []


class TestResume:
    """After a lost connection: the log says where it stands."""

    @pytest.fixture
    def sent(self, desk: Desk) -> Desk:
        desk.start()
        for text in ("aa", "bb", "cc"):
            desk.log.add(text)
            desk.log.seal()
        desk.log.acknowledge(3)
        assert desk.held == 2
        return desk

    @pytest.mark.parametrize(
        ("last", "unsent", "held"),
        [
            (Cursor(0, 1), ["1-0", "1-1", "1-2", "1-3"], 6),
            (Cursor(1, 0), ["1-1", "1-2", "1-3"], 6),
            (Cursor(1, 1), ["1-2", "1-3"], 4),
            (Cursor(1, 2), ["1-3"], 2),
            (Cursor(1, 3), [], 0),
        ],
    )
    def test_resume_continues_after_the_last_event_in_redis(
        self, sent: Desk, last: Cursor, unsent: list[str], held: int
    ) -> None:
        sent.log.resume(last)
        assert [entry.id for entry in sent.log.seal()] == unsent
        assert sent.log.has_work == bool(unsent)
        assert sent.held == held
        assert sent.lost == 0

    @pytest.mark.parametrize("last", [None, Cursor(2, 0), Cursor(1, 4), Cursor(7, 3)])
    def test_resume_loses_a_log_of_another_run(self, sent: Desk, last: Cursor | None) -> None:
        sent.log.add("waiting")
        sent.log.resume(last)
        assert (sent.log.lost, sent.lost) == (True, 1)
        assert not sent.log.has_work
        assert sent.held == 0
        sent.log.lose()
        assert sent.lost == 1, "told once"

    def test_dropped_log_ignores_late_acknowledgements(self, sent: Desk) -> None:
        """The question was on its way when the attempt ended. Red without the guard in
        `acknowledge`: the budget would shrink for good, and in the end the worker stand still.
        """
        sent.log.add("waiting")
        sent.log.drop()
        assert sent.held == 0
        for last in (Cursor(0, 1), Cursor(1, 1), Cursor(1, 3), None):
            sent.log.resume(last)
            assert sent.held == 0
            assert not sent.log.has_work
        assert sent.lost == 0, "nobody is left to be told"


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1), st.integers(1, 12))
def test_events_contain_exactly_the_added_text(pieces: list[str], limit: int) -> None:
    desk = Desk(max_event_chars=limit)
    desk.start()
    for n, piece in enumerate(pieces):
        desk.log.add(piece)
        if n % 3 == 0:
            desk.log.seal()
    sealed, end = desk.log.close()
    text, _ = assemble(sealed)
    chunks = [event.text for event in desk.seal() if isinstance(event, Chunk)]
    assert "".join(chunks) == text == "".join(pieces)
    assert end == Cursor(1, len(chunks) + 1)
    assert sum(desk.log._merged) == len(pieces) == desk.log.chunks
    assert all(len(chunk) <= limit or chunk in pieces for chunk in chunks)


class Ledger(RuleBasedStateMachine):
    """Whatever happens in whatever order, the budget holds exactly what is unsent."""

    @initialize()
    def begin(self) -> None:
        self.desk = Desk(attempt=2)
        self.desk.start()

    @rule(text=st.text(min_size=1, max_size=5))
    def add(self, text: str) -> None:
        if not self.desk.log.lost:
            self.desk.log.add(text)

    @rule()
    def flush(self) -> None:
        if entries := self.desk.log.seal():
            self.desk.log.acknowledge(Cursor.parse(entries[-1].id).seq + 1)

    @rule()
    def flush_without_a_reply(self) -> None:
        self.desk.log.seal()

    @rule(data=st.data())
    def resume(self, data: Any) -> None:
        sealed = self.desk.log.sealed
        last = data.draw(st.integers(-1, sealed - 1))
        self.desk.log.resume(Cursor(1, 5) if last < 0 else Cursor(2, last))

    @precondition(lambda self: self.desk.log.chunks > 4)
    @rule()
    def lose(self) -> None:
        self.desk.log.lose()

    @rule()
    def close(self) -> None:
        self.desk.log.close()

    @invariant()
    def the_budget_is_right(self) -> None:
        log = self.desk.log
        texts = log._pieces[max(0, log._acknowledged - 1) :] + log._waiting
        assert self.desk.held == (0 if log.lost else sum(map(len, texts)))


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
