"""Events as bytes, and their places in a log."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq import event as ev
from darkq.event import START, AnyEvent, Cursor

numbers = st.integers(0, 10**15 - 1)
cursors = st.builds(Cursor, numbers, numbers)
ids = cursors.map(str)
counts = st.integers(0, 2**53)
texts = st.text(st.characters(exclude_categories=["Cs"]))

events: st.SearchStrategy[AnyEvent] = st.one_of(
    st.builds(ev.Queued, id=ids, at_ms=counts),
    st.builds(ev.Started, id=ids, attempt=counts, model=texts, upstream=texts, at_ms=counts),
    st.builds(ev.Chunk, id=ids, text=texts, merged=counts),
    st.builds(
        ev.Retrying,
        id=ids,
        attempt=counts,
        reason=texts,
        retry_in_s=st.floats(0, 1e6),
        at_ms=counts,
    ),
    st.builds(
        ev.Completed,
        id=ids,
        finish_reason=texts,
        usage=st.none() | st.builds(ev.Usage, prompt_tokens=counts, completion_tokens=counts),
        at_ms=counts,
    ),
    st.builds(ev.Failed, id=ids, code=texts, message=texts, at_ms=counts),
    st.builds(ev.Cancelled, id=ids, at_ms=counts),
)


@given(events)
def test_an_event_comes_back_as_it_went(event: AnyEvent) -> None:
    data = ev.encode(event)
    assert ev.decode(data) == event
    assert b"\n" not in data, "one line, whatever the text"


def test_the_bytes_are_as_documented() -> None:
    assert (
        ev.encode(ev.Chunk(id="1-4", text="…")) == '{"type":"chunk","id":"1-4","text":"…"}'.encode()
    )
    assert ev.encode(ev.Completed(id="1-5")) == b'{"type":"completed","id":"1-5"}'


def test_every_event_type_is_known_by_its_name() -> None:
    types = {type_.__struct_config__.tag for type_ in ev.Event.__args__}
    assert types == ev._KNOWN_TYPES
    assert {type_.__struct_config__.tag for type_ in ev.TERMINAL} == {
        "completed", "failed", "cancelled",
    }  # fmt: skip


def test_a_type_of_a_later_version_keeps_its_place() -> None:
    event = ev.decode(b'{"type":"thought","id":"2-7","depth":[1,{"a":2}]}')
    assert event == ev.Unknown(id="2-7", type="thought")
    assert event.cursor == (2, 7)


def test_a_field_of_a_later_version_is_passed_over() -> None:
    assert ev.decode(b'{"type":"chunk","id":"1-1","text":"a","lang":"en"}') == ev.Chunk(
        id="1-1", text="a"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"type":"chunk","id":"1-1"}',
        b'{"type":"chunk","id":"1-1","text":7}',
        b'{"type":"chunk","text":"a"}',
        b'{"type":"thought"}',
        b'{"id":"1-1"}',
    ],
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        ev.decode(data)


class TestCursor:
    @given(cursors)
    def test_comes_back_as_it_went(self, cursor: Cursor) -> None:
        assert Cursor.parse(str(cursor)) == Cursor.parse(str(cursor).encode()) == cursor

    @given(st.text(max_size=12) | st.from_regex(r"\A[0-9٠-٩]{1,17}-[0-9+ _]{1,17}\Z"))
    def test_a_place_has_one_spelling(self, text: str) -> None:
        try:
            cursor = Cursor.parse(text)
        except ValueError:
            return
        assert str(cursor) == text

    @pytest.mark.parametrize(
        "text",
        ["", "1", "1-", "-1", "-1-2", "01-2", "1-02", "1-2 ", " 1-2", "1-2\n", "1_0-2", "+1-2",
         "1-2-3", "1.0-2", "٣-1", "$", "0-1000000000000000", "\ud800"],
    )  # fmt: skip
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - the message quotes the text
            Cursor.parse(text)

    @given(cursors, cursors)
    def test_the_order_is_attempt_first(self, one: Cursor, other: Cursor) -> None:
        if one.attempt != other.attempt:
            assert (one < other) == (one.attempt < other.attempt)
        else:
            assert (one < other) == (one.seq < other.seq)
        assert one >= START

    @given(cursors, cursors)
    def test_only_the_very_next_place_is_preceded(self, one: Cursor, other: Cursor) -> None:
        if one.precedes(other):
            assert one < other
            assert str(other) == f"{one.attempt}-{one.seq + 1}"
        assert one.precedes(Cursor(one.attempt, one.seq + 1))
        assert not one.precedes(Cursor(one.attempt + 1, 0))
        assert not one.precedes(one)
