"""Pieces of an answer: how they merge into events, and become a result."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from darkq import event as ev
from darkq.protocol.record import FunctionCall
from darkq_worker.pieces import AnyPiece, Piece, assemble, count_joined, join, make_event

texts = st.text(min_size=1, max_size=5)
pieces = st.one_of(
    texts,
    texts.map(lambda text: Piece(kind="reasoning", text=text)),
    texts.map(lambda text: Piece(kind="refusal", text=text)),
    st.builds(Piece, kind=st.just("tool_call"), text=texts, index=st.integers(0, 2)),
    texts.map(lambda text: Piece(kind="chunk", text=text, annotations=[text], extra_bytes=9)),
)


def call(index: int, text: str, **first: Any) -> Piece:
    return Piece(kind="tool_call", index=index, text=text, **first)


def merge(given: list[AnyPiece], max_chars: int) -> list[ev.Piece]:
    """Merge pieces into events, as a log does."""
    events: list[ev.Piece] = []
    while given:
        count = count_joined(given, max_chars)
        id_ = f"1-{len(events) + 1}"
        events.append(make_event(id_, join(given[:count]), merged=count, at_ms=0))
        given = given[count:]
    return events


def test_neighbours_of_the_same_kind_become_one_event() -> None:
    given: list[AnyPiece] = [
        *("Let", " me"),
        *(Piece(kind="reasoning", text="Hm"), Piece(kind="reasoning", text=".")),
        *(call(0, "", call_id="a", name="f"), call(0, "{"), call(0, "}")),
        *(call(1, "{", call_id="b", name="g"), call(1, "}"), call(0, " ")),
        "!",
    ]
    assert merge(given, 99) == [
        ev.Chunk(id="1-1", text="Let me", merged=2),
        ev.Reasoning(id="1-2", text="Hm.", merged=2),
        ev.ToolCall(id="1-3", index=0, call_id="a", name="f", arguments="{}", merged=3),
        ev.ToolCall(id="1-4", index=1, call_id="b", name="g", arguments="{}", merged=2),
        ev.ToolCall(id="1-5", index=0, arguments=" "),
        ev.Chunk(id="1-6", text="!"),
    ]


def test_second_call_with_the_index_of_the_first_is_an_event_of_its_own() -> None:
    given: list[AnyPiece] = [call(0, "{}", call_id="a", name="f"), call(0, "{}", call_id="b")]
    assert len(merge(given, 99)) == 2


@given(st.lists(pieces, min_size=1, max_size=12), st.integers(1, 30))
def test_merging_changes_neither_the_text_nor_the_order(given: list[AnyPiece], most: int) -> None:
    events = merge(list(given), most)
    merged: list[AnyPiece] = []
    for event in events:
        if isinstance(event, ev.ToolCall):
            merged.append(call(event.index, event.arguments))
        elif isinstance(event, ev.Chunk):
            merged.append(event.text)
        else:
            kind: Any = "reasoning" if isinstance(event, ev.Reasoning) else "refusal"
            merged.append(Piece(kind=kind, text=event.text))
    plain = [p.text if isinstance(p, Piece) and p.kind == "chunk" else p for p in given]
    assert assemble(merged) == assemble(plain)
    assert sum(event.merged for event in events) == len(given)


def test_an_answer_of_text_has_nothing_beside_it() -> None:
    text, beyond = assemble(["a", "b"])
    assert (text, bool(beyond)) == ("ab", False)


def test_a_result_has_whole_calls_in_their_order() -> None:
    text, beyond = assemble(
        [
            Piece(kind="reasoning", text="Hm."),
            call(0, '{"a"', call_id="a", name="f"),
            call(1, "{}", call_id="b", name="g"),
            call(0, ": 1}"),
            Piece(kind="chunk", text="x", logprobs={"content": [1]}, extra_bytes=5),
            Piece(kind="chunk", text="y", logprobs={"content": [2]}, extra_bytes=5),
        ]
    )
    assert text == "xy"
    assert beyond
    assert beyond.reasoning == "Hm."
    assert beyond.logprobs == {"content": [1, 2]}
    assert beyond.tool_calls == (
        FunctionCall(id="a", name="f", arguments='{"a": 1}'),
        FunctionCall(id="b", name="g", arguments="{}"),
    )
