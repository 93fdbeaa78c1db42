"""`follow`: which live messages count after a cursor, without any I/O."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq import event as ev
from darkq.event import START, AnyEvent, Cursor
from darkq.jobs.tail import follow
from support.by_hand import chunk, started


def ids(events: list[AnyEvent]) -> list[str]:
    return [event.id for event in events]


@pytest.mark.parametrize(
    ("cursor", "messages", "kept", "hole"),
    [
        ("0-1", [], [], False),
        ("1-3", ["1-4", "1-5"], ["1-4", "1-5"], False),
        ("1-3", ["1-1", "1-2", "1-3"], [], False),
        ("1-3", ["1-2", "1-3", "1-4"], ["1-4"], False),
        ("1-3", ["1-4", "1-4", "1-5", "1-4"], ["1-4", "1-5"], False),
        ("1-3", ["1-5"], [], True),
        ("1-3", ["1-4", "1-6", "1-7"], ["1-4"], True),
        ("1-3", ["0-1", "1-0"], [], False),
        # Whether an attempt ended at its last known event, only the log can tell.
        ("0-1", ["1-0"], [], True),
        ("1-3", ["2-0"], [], True),
        ("1-3", ["1-4", "2-0", "2-1"], ["1-4"], True),
        ("1-3", ["2-4"], [], True),
        ("2-0", ["1-9", "2-1"], ["2-1"], False),
        ("0-0", ["0-1"], ["0-1"], False),
    ],
)
def test_only_the_very_next_event_counts(
    cursor: str, messages: list[str], kept: list[str], hole: bool
) -> None:
    events = [chunk(*Cursor.parse(message)) for message in messages]
    news = follow(Cursor.parse(cursor), events)
    assert ids(news.events) == kept
    assert news.gap == hole


def test_events_of_a_later_version_keep_their_place() -> None:
    news = follow(Cursor(1, 1), [ev.Unknown(id="1-2", type="thought"), chunk(1, 3)])
    assert ids(news.events) == ["1-2", "1-3"]


@st.composite
def histories(draw: Any) -> list[AnyEvent]:
    """A whole log: the queue's event, then attempts of some chunks each."""
    events: list[AnyEvent] = [ev.Queued(id="0-1", at_ms=1)]
    for attempt, chunks in enumerate(draw(st.lists(st.integers(0, 4), max_size=3)), start=1):
        events.append(started(attempt))
        events += [chunk(attempt, seq) for seq in range(1, chunks + 1)]
    return events


@given(histories(), st.data())
def test_a_reader_that_goes_back_to_the_log_at_every_hole_misses_nothing(
    log: list[AnyEvent], data: Any
) -> None:
    """Messages may be lost, doubled or late; what is kept is always the log's next event.

    Red without the hole in `follow`: a reader would go on behind it.
    """
    messages = data.draw(st.lists(st.sampled_from(log), max_size=12))
    cursor, seen = START, []
    rest = messages
    while rest:
        news = follow(cursor, rest)
        seen += news.events
        cursor = seen[-1].cursor if seen else START
        assert seen == log[: len(seen)]
        if not news.gap:
            assert max(message.cursor for message in rest) <= cursor
            break
        # Read the log as far as it was when the message behind the hole was published.
        behind = next(message for message in rest if message.cursor > cursor)
        seen = log[: log.index(behind) + 1]
        cursor = seen[-1].cursor
        rest = rest[rest.index(behind) + 1 :]
