"""Pieces that a reader has missed, as few events."""

from __future__ import annotations

from darkq import event as ev
from darkq.event import AnyEvent
from darkq.protocol.answer_events import merge_pieces


def test_neighbours_of_a_kind_become_one_with_the_last_id() -> None:
    begun = ev.Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=1)
    events: list[AnyEvent] = [
        begun,
        ev.Reasoning(id="1-1", text="Hm", at_ms=5),
        ev.Reasoning(id="1-2", text=".", merged=2),
        ev.Chunk(id="1-3", text="Let"),
        ev.Chunk(id="1-4", text=" me"),
        ev.ToolCall(id="1-5", index=0, call_id="a", name="f", arguments="{"),
        ev.ToolCall(id="1-6", index=0, arguments="}"),
        ev.ToolCall(id="1-7", index=1, call_id="b", name="g"),
        ev.Refusal(id="1-8", text="no"),
        ev.Completed(id="1-9"),
    ]
    assert merge_pieces(events) == [
        begun,
        ev.Reasoning(id="1-2", text="Hm.", merged=3, at_ms=5),
        ev.Chunk(id="1-4", text="Let me", merged=2),
        ev.ToolCall(id="1-6", index=0, call_id="a", name="f", arguments="{}", merged=2),
        ev.ToolCall(id="1-7", index=1, call_id="b", name="g"),
        ev.Refusal(id="1-8", text="no"),
        ev.Completed(id="1-9"),
    ]


def test_a_piece_with_more_than_text_stays_alone() -> None:
    events: list[AnyEvent] = [
        ev.Chunk(id="1-1", text="a", logprobs={"content": [1]}),
        ev.Chunk(id="1-2", text="b"),
        ev.Chunk(id="1-3", text="c", annotations=[{}]),
    ]
    assert merge_pieces(events) == events


def test_attempts_are_not_merged() -> None:
    begun = ev.Started(id="2-0", attempt=2, model="m", upstream="u", at_ms=1)
    events: list[AnyEvent] = [ev.Chunk(id="1-1", text="a"), begun, ev.Chunk(id="2-1", text="b")]
    assert merge_pieces(events) == events


def test_a_merged_piece_has_a_bounded_size() -> None:
    """As the events of a log have. Red when 256 large events become one."""
    events: list[AnyEvent] = [ev.Chunk(id=f"1-{n}", text="x" * 30_000) for n in range(1, 6)]
    events.append(ev.Chunk(id="1-6", text="x" * 100_000))
    merged = merge_pieces(events)
    assert [event.id for event in merged] == ["1-2", "1-4", "1-5", "1-6"]


def test_nothing_remains_nothing() -> None:
    assert merge_pieces([]) == []
