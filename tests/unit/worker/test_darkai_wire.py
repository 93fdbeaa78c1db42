"""DarkAI's frames to text, its refusals to errors, and prompts to queries: no I/O here."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq.protocol.prompt import Message
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    Overloaded,
    ProtocolViolation,
    RateLimited,
    Rejected,
    Truncated,
    UpstreamError,
    format_prompt,
)
from darkq_worker.upstreams.darkai_wire import AnswerDecoder, error_detail
from darkq_worker.upstreams.http_errors import (
    MAX_DETAIL_CHARS,
    MAX_RETRY_AFTER_S,
    http_error,
    parse_retry_after,
    quotable,
)
from support.darkai_frames import BEGIN, END, PING, chunk, error, final, frame

DATA = Path(__file__).parents[2] / "data"
RECORDED = (DATA / "darkai_stream.txt").read_bytes()
RECORDED_TEXT = 'Весна идёт, весне дорогу! 🌸\nThe snow is gone — and "quiet" birds\\ 👩‍🌾 return.'
WITHHELD = "(its words repeat the prompt and are left out)"
NEWER = (DATA / "darkai_stream_newer.txt").read_bytes()
NEWER_TEXT = "Why do programmers prefer dark mode? Because light attracts bugs. 🐛"


class Reading:
    """What comes of a stream: its pieces, and the error that ended it, if one did."""

    def __init__(self, *chunks: bytes, decoder: AnswerDecoder | None = None) -> None:
        self.decoder = decoder or AnswerDecoder()
        self.pieces: list[str] = []
        self.error: UpstreamError | None = None
        try:
            for piece in chunks:
                for text in self.decoder.feed(piece):
                    self.pieces.append(text)
                if self.decoder.is_complete:
                    return
            self.decoder.feed_eof()
        except UpstreamError as error:
            self.error = error

    @property
    def outcome(self) -> tuple[str, type[UpstreamError] | None]:
        return "".join(self.pieces), type(self.error) if self.error else None


def test_recorded_darkai_stream() -> None:
    assert RECORDED.count(b"\r\n") == RECORDED.count(b"\n")
    reading = Reading(RECORDED)
    assert reading.outcome == (RECORDED_TEXT, None)
    assert len(reading.pieces) == 12
    assert reading.decoder.malformed == 0


def test_recorded_darkai_stream_of_a_newer_server() -> None:
    assert NEWER.index(b'"event": "final-response"') < NEWER.index(b'"event": "stream-end"')
    assert Reading(NEWER).outcome == (NEWER_TEXT, None)


@given(st.sets(st.integers(0, len(RECORDED)), max_size=60))
def test_darkai_stream_is_decoded_from_any_chunks(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(RECORDED)]
    chunks = [RECORDED[a:b] for a, b in pairwise(edges)]
    assert Reading(*chunks).outcome == (RECORDED_TEXT, None)


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_other_line_ends_bom_and_raw_utf8_are_decoded(end: bytes) -> None:
    body = json.dumps({"event": "text-chunk", "data": {"text": "Весна 🌸"}}, ensure_ascii=False)
    stream = b"\xef\xbb\xbfdata: " + body.encode() + b"\r\n\r\n" + END
    stream = stream.replace(b"\r\n", end)
    assert Reading(*[bytes([byte]) for byte in stream]).outcome == ("Весна 🌸", None)


# Completion


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (chunk("a") + END, "a"),
        (chunk("a") + END + final("a"), "a"),
        (chunk("a") + final("a") + END, "a"),
        (chunk("a") + final("another"), "a"),
        (chunk("a") + final(""), "a"),
        (BEGIN + final("the whole"), "the whole"),
        (BEGIN + END + final("the whole"), "the whole"),
        (BEGIN + final("the whole") + END, "the whole"),
        (chunk("") + final("the whole"), "the whole"),
        (chunk("a") + b'data: {"event":"stream-end"}\n\n', "a"),
        (chunk("a") + b'data: {"event":"stream-end","data":null}\n\n', "a"),
        (chunk("a") + b'data: {"event":"final-response","data":{"message":null}}\n\n', "a"),
    ],
)
def test_streams_with_an_end_are_complete(stream: bytes, text: str) -> None:
    assert Reading(stream).outcome == (text, None)


def test_completes_at_the_stream_end_and_reads_no_further() -> None:
    decoder = AnswerDecoder()
    assert list(decoder.feed(chunk("a") + END + chunk("b") + error("late"))) == ["a"]
    assert decoder.is_complete


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"", ""),
        (BEGIN, ""),
        (BEGIN + PING, ""),
        (BEGIN + chunk("a"), "a"),
        (BEGIN + chunk("a") + END[:-2], "a"),  # an event without its blank line is none
        (BEGIN + chunk("a") + final("a")[:-10], "a"),
    ],
)
def test_eof_before_completion_is_truncation(stream: bytes, text: str) -> None:
    assert Reading(stream).outcome == (text, Truncated)


@pytest.mark.parametrize(
    "stream",
    [
        BEGIN + END + final(""),
        BEGIN + final("") + END,
        BEGIN + END,
        BEGIN + chunk("") + END + final(""),
        BEGIN + b'data: {"event":"final-response","data":{"message":null}}\n\n',
    ],
)
def test_empty_success_is_a_failure(stream: bytes) -> None:
    assert Reading(stream).outcome == ("", EmptyAnswer)


# Errors inside a 200


@pytest.mark.parametrize(
    ("detail", "kind"),
    [
        ("Model is at capacity. Please try again later.", Overloaded),
        ("The server is overloaded", Overloaded),
        ("Network Error. Please try again.", UpstreamError),
        ("", UpstreamError),
        ("Rate limit exceeded, please try again after a short break.", RateLimited),
        ("Too Many Requests", RateLimited),
    ],
)
def test_error_event_raises_its_class(detail: str, kind: type[UpstreamError]) -> None:
    stream = BEGIN + chunk("some ") + chunk("text") + error(detail) + END + final("some text")
    reading = Reading(stream, decoder=AnswerDecoder(retry_after_s=7.0))
    assert reading.outcome == ("some text", kind)
    assert reading.error is not None
    assert reading.error.retryable
    assert reading.error.retry_after_s == 7.0
    assert reading.error.status == 200
    assert detail in reading.error.message


@pytest.mark.parametrize(
    "stream",
    [
        b"event: error\ndata: at capacity\n\n",
        b'event: error\ndata: {"detail": "at capacity"}\n\n',
        b'event: error\ndata: {"event": "oops", "data": {"detail": "at capacity"}}\n\n',
        b'data: {"event": "error", "data": {"detail": "at capacity"}}\n\n',
    ],
)
def test_error_events_of_other_shapes_are_raised(stream: bytes) -> None:
    assert Reading(chunk("a") + stream + END).outcome == ("a", Overloaded)


@pytest.mark.parametrize(
    "data", [b"[]", b'{"detail": ["x"]}', b'{"event": "error"}', b'{"event": "stream-end"}']
)
def test_error_event_without_text_is_raised(data: bytes) -> None:
    reading = Reading(b"event: error\ndata: " + data + b"\n\n")
    assert reading.outcome == ("", UpstreamError)
    assert reading.error is not None
    assert reading.error.message == "the upstream reports an error"


# Malformed and unknown


@pytest.mark.parametrize(
    "data",
    [
        b"{broken",
        b"",
        b"null",
        b'"text"',
        b"[1]",
        b'{"event": 7, "data": {}}',
        b'{"data": {"text": "no event"}}',
        b'{"event": "text-chunk"}',
        b'{"event": "text-chunk", "data": {"text": null}}',
        b'{"event": "text-chunk", "data": {"text": ["a"]}}',
        b'{"event": "text-chunk", "data": "a"}',
        b"[" * 100_000,
    ],
)
def test_malformed_line_is_skipped_and_counted(data: bytes) -> None:
    reading = Reading(chunk("a") + b"data: " + data + b"\r\n\r\n" + chunk("b") + END)
    assert reading.outcome == ("ab", None)
    assert reading.decoder.malformed == 1


def test_malformed_line_without_blank_line_leaves_neighbouring_frames_intact() -> None:
    broken = b"data: {broken\r\n"
    stream = broken + chunk("a")[:-2] + chunk("b") + broken + END
    reading = Reading(stream)
    assert reading.outcome == ("ab", None)
    assert reading.decoder.malformed == 2


def test_one_huge_malformed_event_is_not_tried_line_by_line() -> None:
    reading = Reading(b"data:x\n" * 400_000 + b"\n" + chunk("a") + END)
    assert reading.outcome == ("a", None)
    assert reading.decoder.malformed < 100


@pytest.mark.parametrize(
    "event",
    [
        frame("search-results", results=[{"text": 1}], images=None),
        frame("related-queries", related_queries=["a"]),
        frame("agent-finish"),
        frame("agent-query-plan", text="not of the answer", message="neither"),
        b'data: {"event": "new", "data": [1, 2], "text": "x"}\r\n\r\n',
        b"id: 1\r\nretry: 5\r\nevent: other\r\ndata: " + chunk("")[6:],
        PING,
    ],
)
def test_unknown_event_is_ignored(event: bytes) -> None:
    reading = Reading(event + chunk("a") + event + END)
    assert reading.outcome == ("a", None)
    assert reading.decoder.malformed == 0


def test_only_events_restart_the_idle_clock() -> None:
    decoder = AnswerDecoder()
    for stream, is_life in [(BEGIN, True), (PING, False), (chunk("a"), True), (b":\n\n", False)]:
        assert list(decoder.feed(stream)) in ([], ["a"])
        assert decoder.got_frame is is_life


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d", "\ufffd"),
        (r"a\ude00b", "a\ufffdb"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
    ],
)
@pytest.mark.parametrize("event", ["text-chunk", "final-response"])
def test_lone_surrogates_become_replacement_characters(event: str, escaped: str, text: str) -> None:
    key = "text" if event == "text-chunk" else "message"
    data = f'data: {{"event": "{event}", "data": {{"{key}": "{escaped}"}}}}\n\n'.encode()
    reading = Reading(data + END)
    assert reading.outcome == (text, None)
    assert text.encode().decode() == text


def test_invalid_utf8_becomes_replacement_characters() -> None:
    stream = b'data: {"event": "text-chunk", "data": {"text": "a\xff\xed\xa0\x80b"}}\n\n' + END
    text, fault = Reading(stream).outcome
    assert fault is None
    assert set(text) == {"a", "\ufffd", "b"}


def test_line_past_the_size_limit_is_refused() -> None:
    stream = chunk("a") + final("x" * 2000)
    reading = Reading(stream, decoder=AnswerDecoder(max_line_bytes=1000))
    assert reading.outcome == ("a", ProtocolViolation)
    assert reading.error is not None
    assert "1,000 bytes" in reading.error.message


def test_size_limit_does_not_apply_after_the_end() -> None:
    stream = chunk("a") + END + final("x" * 2000)
    assert Reading(stream, decoder=AnswerDecoder(max_line_bytes=1000)).outcome == ("a", None)


def test_answer_of_a_mebibyte_fits_into_a_final_response() -> None:
    text = "🌸" * (1 << 18)
    assert len(text.encode()) == 1 << 20
    assert Reading(final(text)).outcome == (text, None)


# Refusals


@pytest.mark.parametrize(
    ("status", "is_html", "kind", "retryable"),
    [
        (204, False, ProtocolViolation, True),
        (302, False, ProtocolViolation, True),
        (400, False, Rejected, False),
        (401, False, Rejected, False),
        (402, False, Rejected, False),
        (402, True, Rejected, False),
        (403, False, Rejected, False),
        (403, True, ProtocolViolation, True),
        (404, False, Rejected, False),
        (404, True, ProtocolViolation, True),
        (407, False, Rejected, False),
        (408, False, Overloaded, True),
        (422, False, Rejected, False),
        (422, True, Rejected, False),
        (429, False, RateLimited, True),
        (429, True, RateLimited, True),
        (500, False, Overloaded, True),
        (502, True, Overloaded, True),
        (520, True, Overloaded, True),
        (529, False, Overloaded, True),
    ],
)
def test_error_class_of_each_http_status(
    status: int, is_html: bool, kind: type[UpstreamError], retryable: bool
) -> None:
    error = http_error(status, is_html=is_html, detail="why", retry_after_s=3.0)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.status == status
    assert error.retry_after_s == 3.0
    assert f"HTTP {status}" in error.message
    assert "why" in error.message


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"detail": "Not Found"}', "Not Found"),
        (error("Rate limit exceeded"), "Rate limit exceeded"),
        (error("Rate limit exceeded").rstrip(), "Rate limit exceeded"),
        (b'event: error\ndata: {"detail": "slow down"}', "slow down"),
        (b'{"detail": "a\\ud800"}', "a\ufffd"),
        (b'{"detail": 7}', ""),
        (b'{"error": 1}', ""),
        (b"[]", ""),
        (b"", ""),
        (b"{cut", ""),
        (b"\xff" * 100, ""),
        (b"[" * 65536, ""),
    ],
)
def test_detail_of_an_error_body(body: bytes, detail: str) -> None:
    assert error_detail(body) == detail


def test_detail_of_a_validation_error_leaves_the_input_out() -> None:
    fault = {"type": "missing", "loc": ["body", "history"], "msg": "Field required", "input": "SEC"}
    detail = error_detail(json.dumps({"detail": [fault, "junk"]}).encode())
    assert detail == "['body', 'history']: Field required"


@pytest.mark.parametrize(
    ("detail", "prompt", "quoted"),
    [
        ("Model is at capacity.", "a poem about spring", "Model is at capacity."),
        ("two\r\nlines\x00\x1b[0m", "…", "two lines [0m"),
        ("bad input: my secret plan", "my secret plan", WITHHELD),
        (
            "bad input: …rest of a long secret plan, cut…",
            "x" * 9 + "rest of a long secret plan",
            WITHHELD,
        ),
        ("No", "No", "No"),
        ("", "", ""),
    ],
)
def test_quote_never_holds_the_prompt(detail: str, prompt: str, quoted: str) -> None:
    assert quotable(detail, prompt) == quoted


@given(st.text(min_size=4, max_size=300), st.text(max_size=50), st.text(max_size=300))
def test_quote_is_short_and_printable(prompt: str, before: str, after: str) -> None:
    quote = quotable(before + prompt[:100] + after, prompt)
    assert len(quote) <= MAX_DETAIL_CHARS
    assert quote.isprintable()
    if len(prompt) <= 100:
        assert quote == WITHHELD


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("17", 17.0),
        ("1.5", 1.5),
        (" 3 ", 3.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("999999999", MAX_RETRY_AFTER_S),
        ("inf", MAX_RETRY_AFTER_S),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 01 Jan 9999 00:00:00 GMT", MAX_RETRY_AFTER_S),
        ("Wed, 99 Oct 2015 99:28:00 GMT", None),
    ],
)
def test_retry_after_header_is_parsed(header: str | None, wait_s: float | None) -> None:
    assert parse_retry_after(header) == wait_s


def test_retry_after_as_a_date() -> None:
    wait_s = parse_retry_after(formatdate(time.time() + 100, usegmt=True))
    assert wait_s is not None
    assert 95 < wait_s <= 100


# Prompts


def test_prompt_that_is_a_string_is_verbatim() -> None:
    assert format_prompt(" a\nb ") == " a\nb "


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_one_message_is_its_content_whatever_its_role(role: str) -> None:
    message = Message(role, " Hello\n")  # type: ignore[arg-type]
    assert format_prompt([message]) == " Hello\n"


def test_several_messages_become_a_dialogue() -> None:
    messages = (
        Message("system", "Be brief."),
        Message("user", ({"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"})),
        Message("assistant", "Hi"),
        Message("user", "Bye"),
    )
    expected = "System: Be brief.\nUser: Hello\nAssistant: Hi\nUser: Bye\nAssistant:"
    assert format_prompt(messages) == expected


def test_no_message_is_refused() -> None:
    with pytest.raises(Rejected, match="no messages"):
        format_prompt(())
