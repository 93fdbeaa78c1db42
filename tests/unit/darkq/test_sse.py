"""The decoder against the examples of the standard, every way to cut a stream, and its bounds.

The examples are those of https://html.spec.whatwg.org/multipage/server-sent-events.html,
§ 9.2.6.
"""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from darkq.sse import (
    EventDecoder,
    EventTooLarge,
    LineDecoder,
    LineTooLong,
    ServerSentEvent,
    SSEError,
    encode,
    frame,
)

RECORDED = (Path(__file__).parents[2] / "data" / "darkai_stream.txt").read_bytes()

# Everything that a cut can go through: BOM, CRLF, LF, CR, Russian, emoji, comments, fields
# without a colon, malformed lines, bytes that are no UTF-8, and an end without a blank line.
MIXED = (
    b"\xef\xbb\xbfevent: add\r\ndata: \xd0\x92\xd0\xb5\xd1\x81\xd0\xbd\xd0\xb0\r\n\r\n"
    b": ping\r\n\r\ndata: \xf0\x9f\x8c\xb8\rdata:two\r\rid: 7\ndata\n\n"
    b"\xef\xbb\xbfdata: the BOM is not at the start\n\ndata: \xff\xfe{broken\r\n\r\n"
    b"retry: 2500\nid\nnonsense\n:\ndata:  x: y\n\n\r\n\r\ndata: lost"
)
MIXED_EVENTS = [
    ("add", "Весна".encode(), ""),
    ("message", "🌸\ntwo".encode(), ""),
    ("message", b"", "7"),
    ("message", b"\xff\xfe{broken", "7"),
    ("message", b" x: y", ""),
]


def pieces(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


def decode(*chunks: bytes) -> list[tuple[str, bytes, str]]:
    decoder = EventDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    assert all(type(event.data) is bytes for event in events)
    return [(event.event, event.data, event.id) for event in events]


def data_of(*chunks: bytes) -> list[bytes]:
    return [data for _, data, _ in decode(*chunks)]


def by_the_letter(stream: bytes) -> list[tuple[str, bytes, str]]:
    """§ 9.2.5 and § 9.2.6 word by word, over the whole stream at once."""
    text = stream.decode(errors="surrogateescape").removeprefix("\ufeff")
    lines = re.split("\r\n|\n|\r", text)[:-1]
    events: list[tuple[str, bytes, str]] = []
    event_type, data, last_id = "", "", ""
    for line in lines:
        if line == "":
            if data != "":
                body = data.removesuffix("\n").encode(errors="surrogateescape")
                events.append((event_type or "message", body, last_id))
            event_type, data = "", ""
            continue
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event_type = value.encode(errors="surrogateescape").decode(errors="replace")
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last_id = value.encode(errors="surrogateescape").decode(errors="replace")
    return events


# The examples of the standard


def test_stock_quote_data_on_three_lines() -> None:
    assert data_of(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [b"YHOO\n+2\n10"]


def test_comment_ids_and_last_event_without_blank_line() -> None:
    stream = (
        b": test stream\n\ndata: first event\nid: 1\n\n"
        b"data:second event\nid\n\ndata:  third event\n"
    )
    first_two = [("message", b"first event", "1"), ("message", b"second event", "")]
    assert decode(stream) == first_two
    assert decode(stream, b"\n") == [*first_two, ("message", b" third event", "")]


def test_empty_data_fields() -> None:
    assert data_of(b"data\n\ndata\ndata\n\ndata:") == [b"", b"\n"]


def test_space_after_the_colon_is_optional() -> None:
    assert data_of(b"data:test\n\ndata: test\n\n") == [b"test", b"test"]


# What the standard says beside its examples


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"], ids=["CRLF", "LF", "CR"])
def test_line_ends(end: bytes) -> None:
    lines = [b"event: a", b"data: 1", b"", b"data: 2", b"data: 3", b"", b""]
    assert decode(end.join(lines)) == [("a", b"1", ""), ("message", b"2\n3", "")]


def test_only_cr_and_lf_end_lines() -> None:
    data = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    assert data_of(f"data: {data}\n\n".encode()) == [data.encode()]


def test_bom_is_dropped_at_the_start_only() -> None:
    bom = b"\xef\xbb\xbf"
    assert data_of(bom + b"data: 1\n\n" + bom + b"data: 2\n\n") == [b"1"]
    assert data_of(bom + bom + b"data: 1\n\ndata: 2\n\n") == [b"2"]
    assert data_of(bom[:2], b"data: 1\n\ndata: 2\n\n") == [b"2"]


def test_event_at_a_cr_does_not_wait_for_a_line_feed() -> None:
    decoder = EventDecoder()
    assert [event.data for event in decoder.feed(b"data: now\r\r")] == [b"now"]
    assert [event.data for event in decoder.feed(b"\ndata: next\r\n\r")] == [b"next"]


def test_event_without_data_is_none_but_its_id_counts() -> None:
    assert decode(b"event: a\nid: 5\n\ndata: x\n\n") == [("message", b"x", "5")]


def test_empty_event_field_means_message() -> None:
    assert decode(b"event: a\nevent\ndata: x\n\n") == [("message", b"x", "")]


def test_id_with_nul_is_ignored() -> None:
    assert decode(b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n")[1] == ("message", b"b", "1")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"2500", 2500),
        (b"0", 0),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
        ("٣".encode(), None),
        (b"9" * 5000, None),
    ],
)
def test_retry_takes_ascii_digits_only(value: bytes, expected: int | None) -> None:
    decoder = EventDecoder()
    assert not list(decoder.feed(b"retry: " + value + b"\n\n"))
    assert decoder.retry_ms == expected


def test_text_replaces_what_is_not_utf8() -> None:
    (event,) = EventDecoder().feed(b"data: \xd0\x92\xff\n\n")
    assert event == ServerSentEvent(b"\xd0\x92\xff")
    assert event.text == "В\ufffd"


# Cuts


def test_mixed_stream() -> None:
    assert decode(MIXED) == MIXED_EVENTS == by_the_letter(MIXED)


def test_every_single_cut_and_every_byte_alone() -> None:
    for cut in range(len(MIXED) + 1):
        assert decode(*pieces(MIXED, [cut])) == MIXED_EVENTS
    assert decode(*[bytes([byte]) for byte in MIXED]) == MIXED_EVENTS


@given(st.sets(st.integers(0, len(MIXED))))
def test_any_cuts_of_the_mixed_stream(cuts: set[int]) -> None:
    assert decode(*pieces(MIXED, cuts)) == MIXED_EVENTS


@given(st.sets(st.integers(0, len(RECORDED)), max_size=60))
def test_any_cuts_of_the_recorded_stream(cuts: set[int]) -> None:
    assert decode(*pieces(RECORDED, cuts)) == decode(RECORDED) == by_the_letter(RECORDED)


TOKENS = [
    *(b"\r", b"\n", b"\r\n", b":", b" ", b"data", b"data: ", b"event: ", b"id: ", b"\0"),
    *(b"\xef\xbb\xbf", b"\xef", b"\xff", "ы".encode(), "🌸".encode(), b"x"),
]


@given(st.lists(st.sampled_from(TOKENS), max_size=40), st.sets(st.integers(0, 120)))
@example([b"\xef\xbb\xbf", b"\n", b"data", b"\n", b"\n"], set())
def test_any_stream_reads_as_the_standard_says(tokens: list[bytes], cuts: set[int]) -> None:
    stream = b"".join(tokens)
    assert decode(*pieces(stream, {min(cut, len(stream)) for cut in cuts})) == by_the_letter(stream)


# Bounds


def bounded(stream: bytes, cuts: Iterable[int]) -> tuple[list[bytes], type[SSEError] | None]:
    decoder = EventDecoder(max_line_bytes=16, max_event_bytes=12)
    got: list[bytes] = []
    try:
        for chunk in pieces(stream, cuts):
            for event in decoder.feed(chunk):
                got.append(event.data)  # noqa: PERF401 (what came before the fault counts)
    except SSEError as error:
        return got, type(error)
    return got, None


BOUNDS = [
    (b"data: 1\n\ndata: 0123456789\n\n", [b"1", b"0123456789"], None),
    (b"data: 1\n\n:0123456789abcde\n\ndata: 2\n\n", [b"1", b"2"], None),
    (b"data: 1\n\n:0123456789abcdef\n\ndata: 2\n\n", [b"1"], LineTooLong),
    (b"data: 1\n\n:0123456789abcdef", [b"1"], LineTooLong),
    (b"\xef\xbb\xbf:0123456789abcde\ndata: 1\n\n", [b"1"], None),
    (b"data:1\ndata:0123456789\n\n", [b"1\n0123456789"], None),
    (b"data: 1\n\ndata:12\ndata:0123456789\n\n", [b"1"], EventTooLarge),
    (b"data: 1\n\n" + b"data\n" * 13 + b"\n", [b"1", b"\n" * 12], None),
    (b"data: 1\n\n" + b"data\n" * 14 + b"\n", [b"1"], EventTooLarge),
]


@pytest.mark.parametrize(("stream", "data", "fault"), BOUNDS)
def test_bounds_do_not_depend_on_cuts(
    stream: bytes, data: list[bytes], fault: type[SSEError] | None
) -> None:
    for cut in range(len(stream) + 1):
        assert bounded(stream, [cut]) == (data, fault)
    assert bounded(stream, range(len(stream))) == (data, fault)


def test_one_line_larger_than_an_event() -> None:
    with pytest.raises(EventTooLarge) as caught:
        list(EventDecoder(max_event_bytes=5).feed(b"data: 123456\n\n"))
    assert caught.value.limit_bytes == 5
    assert list(EventDecoder(max_event_bytes=6).feed(b"data: 123456\n\n"))


def test_long_line_in_single_bytes_is_read_in_linear_time_and_bounded_memory() -> None:
    decoder = LineDecoder(max_line_bytes=100_000)
    tracemalloc.start()
    try:
        for _ in range(100_000):
            assert not list(decoder.feed(b"x"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 400_000
    with pytest.raises(LineTooLong) as caught:
        list(decoder.feed(b"x"))
    assert caught.value.limit_bytes == 100_000


def exhaust(decoder: EventDecoder, chunks: list[bytes]) -> None:
    for chunk in chunks:
        assert not list(decoder.feed(chunk))


def test_many_short_lines_take_no_more_memory_than_the_bound_says() -> None:
    decoder = EventDecoder(max_event_bytes=100_000)
    chunk = b"data:a\n" * 1000
    tracemalloc.start()
    try:
        with pytest.raises(EventTooLarge):
            exhaust(decoder, [chunk] * 1000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 400_000


# The encoder


@given(st.text(), st.one_of(st.none(), st.text()), st.one_of(st.none(), st.text()))
def test_what_is_encoded_is_decoded(data: str, event: str | None, last_id: str | None) -> None:
    names = [name for name in (event, last_id) if name is not None]
    if any(set(name) & set("\r\n\0") for name in names):
        with pytest.raises(ValueError, match="has a CR, LF or NUL"):
            encode(data, event, last_id)
        return
    expected = re.sub("\r\n|\r", "\n", data).encode()
    assert decode(encode(data, event, last_id)) == [(event or "message", expected, last_id or "")]


@given(st.text(), st.one_of(st.none(), st.text("ab é")), st.one_of(st.none(), st.text("12-")))
def test_a_frame_is_what_encode_returns(data: str, event: str | None, last_id: str | None) -> None:
    """Red when the encoder without checks writes a field in another way."""
    line = msgspec.json.encode(data)
    assert frame(line, event, last_id) == encode(line.decode(), event, last_id)


def test_the_id_of_a_frame_comes_after_its_data() -> None:
    """Red if a client that takes an id at once loses the event when its connection breaks."""
    assert frame(b"1", "e", "1-0") == b"event: e\ndata: 1\nid: 1-0\n\n"
