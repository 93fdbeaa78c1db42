"""OpenAI's wire without a network: what ends an answer, and what must never pass for an end."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from darkq.event import Usage
from darkq.job import Message
from darkq.options import Options
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    End,
    Overloaded,
    ProtocolViolation,
    RateLimited,
    Rejected,
    Request,
    Truncated,
    UpstreamError,
)
from darkq_worker.upstreams.openai_errors import refusal_detail
from darkq_worker.upstreams.openai_request import parse_models, request_body
from darkq_worker.upstreams.openai_wire import AnswerDecoder
from support.openai_frames import DONE, delta, error, finish, frame, usage

URL = "http://127.0.0.1:1/v1"
WHOLE = delta(None) + delta("Hello, ") + delta("wörld 🌸") + finish() + usage(3, 2) + DONE
TEXT = "Hello, wörld 🌸"


def read(data: bytes, size: int = 1 << 20, **options: Any) -> tuple[str, End]:
    """Read a whole answer, in pieces of a size."""
    answer = AnswerDecoder(**options)
    text: list[str] = []
    for start in range(0, len(data), size):
        text += answer.feed(data[start : start + size])
        if answer.is_complete:
            return "".join(text), answer.end
    answer.feed_eof()
    return "".join(text), answer.end


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
def test_an_answer_in_pieces_of_any_size(size: int) -> None:
    end = End(finish_reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=2))
    assert read(WHOLE, size) == (TEXT, end)


def test_cut_anywhere_it_is_whole_or_truncated_and_never_else() -> None:
    ends = WHOLE.index(finish()) + len(finish()) - 1  # the first LF of the blank line will do
    for cut in range(len(WHOLE)):
        answer = AnswerDecoder()
        text = "".join(answer.feed(WHOLE[:cut]))
        assert TEXT.startswith(text)
        if cut > ends:
            answer.feed_eof()
            assert text == TEXT
        else:
            with pytest.raises(Truncated):
                answer.feed_eof()


@pytest.mark.parametrize(
    "data",
    [
        delta("a") + finish(),
        delta("a") + DONE,
        delta("a") + finish() + DONE,
        delta("a", finish_reason="stop"),
        delta("a") + finish() + usage(1, 1),
        delta("a") + b"data:[DONE]\r\n\r\n",
        delta("a") + finish() + delta("late") + DONE,
        delta("a") + finish() + error("late") + DONE,
        b": ping\n\n" + delta("a") + b": ping\n\n" + finish() + DONE,
        b"data: {broken\n\n" + delta("a") + DONE,
        delta("a")[:-1] + DONE,
        delta("a") + delta("second choice", index=1) + DONE,
        frame(choices=[], prompt_filter_results=[]) + delta("a") + DONE,
    ],
    ids=range(13),
)
def test_what_ends_an_answer(data: bytes) -> None:
    assert read(data)[0] == "a"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Truncated),
        (delta("a"), Truncated),
        (delta("a") + usage(1, 1), Truncated),
        (delta("a") + frame(choices=[{"index": 1, "finish_reason": "stop"}]), Truncated),
        (finish(), EmptyAnswer),
        (DONE, EmptyAnswer),
        (delta("") + finish() + DONE, EmptyAnswer),
        (finish("length"), Rejected),
        (finish("content_filter"), Rejected),
        (delta("a") + finish("error"), UpstreamError),
        (delta("a") + finish("abort"), UpstreamError),
        (delta("a") + error("oops") + finish(), UpstreamError),
        (error("x", type="server_error"), Overloaded),
        (error("x", code=503), Overloaded),
        (error("x", code=429), RateLimited),
        (error("x", code=400), Rejected),
        (error("x", code="rate_limit_exceeded"), RateLimited),
        (error("x", type="invalid_request_error", code=None), Rejected),
        (error("The engine is overloaded"), Overloaded),
        (b'data: {"error": "oops"}\n\n', UpstreamError),
        (b"event: error\ndata: oops\n\n" + DONE, UpstreamError),
        (b'event: error\ndata: {"message": "rate limit"}\n\n', RateLimited),
        (frame(choices=[{"index": 0, "delta": {"content": "a"}}], error={"code": 502}), Overloaded),
        (b"data: " + b"a" * 5000, ProtocolViolation),
    ],
    ids=range(24),
)
def test_what_is_no_end(data: bytes, kind: type[UpstreamError]) -> None:
    with pytest.raises(UpstreamError) as caught:
        read(data, max_line_bytes=4000)
    assert type(caught.value) is kind
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("reason", "told"),
    [("length", "length"), ("content_filter", "content_filter"), ("eos_token", "stop")],
)
def test_finish_reasons(reason: str, told: str) -> None:
    assert read(delta("a") + finish(reason))[1] == End(finish_reason=told)


def test_usage_is_not_awaited_where_it_was_not_asked_for() -> None:
    answer = AnswerDecoder(awaits_usage=False)
    assert list(answer.feed(delta("a") + finish())) == ["a"]
    assert answer.is_complete


def test_lone_surrogates_and_bytes_that_are_no_utf_8() -> None:
    lone = b'data: {"choices": [{"delta": {"content": "a\\ud83d"}}]}\n\n'
    broken = b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'
    assert read(lone + broken + DONE)[0] == "a\ufffd\ufffd"


def test_errors_repeat_neither_the_prompt_nor_the_key() -> None:
    for words in ("no: a long secret prompt", "bad key sk-12345"):
        with pytest.raises(UpstreamError) as caught:
            read(error(words), prompt="a long secret prompt", secret="sk-12345")
        assert "secret" not in caught.value.message
        assert "sk-12345" not in caught.value.message


def test_noise_never_passes_for_an_end() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300):
        data = bytearray(delta("a") + delta("b") + frame(choices=[{"finish_reason": None}]))
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with pytest.raises(UpstreamError):
            read(bytes(data), chance.randrange(1, 80), max_line_bytes=4000)


def test_a_request() -> None:
    messages = (Message("developer", "Be brief."), Message("user", "Hi 🌸"))
    options = Options(temperature=0.5, max_tokens=7, stop=("\n",), seed=3)
    request = Request(prompt=messages, options=options)
    assert json.loads(request_body(URL, request, "m", awaits_usage=True)) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi 🌸"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 7,
        "stop": ["\n"],
        "seed": 3,
    }
    official = json.loads(
        request_body("https://api.openai.com/v1", request, "m", awaits_usage=False)
    )
    assert official["max_completion_tokens"] == 7
    assert not official.keys() & {"max_tokens", "stream_options"}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"error": {"message": "no", "type": "t", "code": null}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"object": "error", "message": "no", "code": 400}', "no"),
        (b"data: " + b'{"error": {"message": "no"}}\n\n', "no"),
        (b"<html>", ""),
        (b"[1]", ""),
        (b'{"error": {"message": 5}}', ""),
    ],
)
def test_what_a_refusal_says(body: bytes, detail: str) -> None:
    assert refusal_detail(body).detail == detail


def test_a_list_of_models() -> None:
    body = json.dumps({"data": [{"id": "b"}, {"id": "a"}, {"id": "b"}, {"id": "x\n"}, {"id": ""}]})
    assert parse_models(body.encode()) == ["b", "a"]
    assert parse_models(b'{"object": "list", "data": null}') == []
    for wrong in (b"", b"[]", b'{"data": [1]}', b'{"models": []}', b'{"data": [{}]}'):
        with pytest.raises(ProtocolViolation):
            parse_models(wrong)
