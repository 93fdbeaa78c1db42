"""OpenAI's wire without a network: what ends an answer, and what must never pass for an end."""

from __future__ import annotations

import json
import random
from typing import Any
from unittest.mock import Mock

import pytest

from darkq.event import Usage
from darkq.protocol.options import Options
from darkq.protocol.prompt import Message
from darkq_worker.pieces import AnyPiece, assemble
from darkq_worker.upstreams import openai_wire
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
from darkq_worker.upstreams.openai_errors import read_error, refusal_detail
from darkq_worker.upstreams.openai_models import default_model, find_listed, parse_models
from darkq_worker.upstreams.openai_request import build_body, find_refused
from darkq_worker.upstreams.openai_wire import MAX_LINES_TRIED, AnswerDecoder
from support.openai_frames import DONE, delta, error, finish, frame, usage

URL = "http://127.0.0.1:1/v1"
WHOLE = delta(None) + delta("Hello, ") + delta("wörld 🌸") + finish() + usage(3, 2) + DONE
TEXT = "Hello, wörld 🌸"


def read(data: bytes, size: int = 1 << 20, **options: Any) -> tuple[str, End]:
    """Read a whole answer, in pieces of a size."""
    answer = AnswerDecoder(**options)
    pieces: list[AnyPiece] = []
    for start in range(0, len(data), size):
        pieces += answer.feed(data[start : start + size])
        if answer.is_complete:
            return assemble(pieces)[0], answer.end
    answer.feed_eof()
    return assemble(pieces)[0], answer.end


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
def test_answer_is_decoded_from_chunks_of_any_size(size: int) -> None:
    end = End(finish_reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=2))
    assert read(WHOLE, size) == (TEXT, end)


def test_answer_cut_at_any_byte_is_whole_or_truncated() -> None:
    ends = WHOLE.index(finish()) + len(finish()) - 3  # the frame is whole without its blank line
    for cut in range(len(WHOLE)):
        answer = AnswerDecoder()
        text, _ = assemble(answer.feed(WHOLE[:cut]))
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
        delta("a") + finish() + error("late") + DONE,
        b": ping\n\n" + delta("a") + b": ping\n\n" + finish() + DONE,
        delta("a")[:-1] + DONE,
        frame(choices=[{"delta": {"content": "a"}}, {"delta": {"content": "second choice"}}])
        + DONE,
        frame(choices=[], prompt_filter_results=[]) + delta("a") + DONE,
    ],
    ids=range(11),
)
def test_streams_that_complete_an_answer(data: bytes) -> None:
    assert read(data)[0] == "a"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Truncated),
        (delta("a"), Truncated),
        (delta("a") + usage(1, 1), Truncated),
        (b"data: {broken\n\n" + delta("a") + finish() + DONE, Truncated),
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
def test_streams_that_do_not_complete_an_answer(data: bytes, kind: type[UpstreamError]) -> None:
    with pytest.raises(UpstreamError) as caught:
        read(data, max_line_bytes=4000)
    assert type(caught.value) is kind
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        *(("length", "length"), ("maxTokens", "length"), ("FINISH_REASON_MAX_TOKENS", "length")),
        *(("content_filter", "content_filter"), ("SAFETY", "content_filter")),
        *(
            ("eos_token", "stop"),
            ("STOP", "stop"),
            ("end-turn", "stop"),
            ("tool_use", "tool_calls"),
        ),
        *(("brand new!", "brand_new_"), ("x" * 90, "x" * 40)),
    ],
)
def test_finish_reasons(reason: str, told: str) -> None:
    assert read(delta("a") + finish(reason))[1] == End(finish_reason=told)


def test_a_stop_ends_the_text_and_not_the_stream() -> None:
    """Red where a usage or a text that follows a stop is not waited for."""
    answer = AnswerDecoder()
    assert list(answer.feed(delta("a") + finish() + usage(3, 1))) == ["a"]
    states = [(answer.has_ended, answer.is_complete)]
    for more, text in ((delta("b"), ["b"]), (finish(), []), (DONE, [])):
        assert list(answer.feed(more)) == text
        states.append((answer.has_ended, answer.is_complete))
    # One stop was too early, so no stop is believed any more.
    assert states == [(True, False), (False, False), (False, False), (True, True)]
    assert answer.end == End(usage=Usage(prompt_tokens=3, completion_tokens=1))


def test_error_after_a_stop_is_raised_when_more_text_follows() -> None:
    """Red where a hole behind an early stop is forgotten."""
    for wrong in (error("boom"), b"data: {broken\n\n", b"data: " + b"a" * 5000 + b"\n\n"):
        answer = AnswerDecoder(max_line_bytes=4000)
        assert list(answer.feed(delta("a") + finish() + wrong)) == ["a"]
        assert answer.has_ended
        if not answer.is_complete:
            with pytest.raises(UpstreamError):
                list(answer.feed(delta("b")))


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ([usage(0, 0), usage(7, 3)], (7, 3)),
        ([usage(7, 1), usage(7, 2), usage(0, 0)], (7, 2)),
        ([frame(usage={"prompt_tokens": 7.0}), frame(usage={"completion_tokens": "3"})], (7, 3)),
        ([frame(usage={"prompt_tokens": 7, "completion_tokens": True})], (7, 0)),
        ([frame(usage={"prompt_tokens": 10**400, "completion_tokens": 3})], (0, 3)),
        ([frame(usage={"prompt_tokens": -7, "completion_tokens": None})], None),
        ([frame(usage="many"), usage(0, 0)], None),
    ],
)
def test_last_valid_token_counts_are_used(
    told: list[bytes], counts: tuple[int, int] | None
) -> None:
    end = read(delta("a") + finish() + b"".join(told) + DONE)[1]
    known = counts and Usage(prompt_tokens=counts[0], completion_tokens=counts[1])
    assert end.usage == known


def test_json_on_many_lines_is_tried_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red where each closing brace parses all that came before: quadratic in what is sent."""
    hostile = b'{"a": [' + b"1," * 200_000 + b"\n" + b"}\n" * 100_000
    parse = Mock(wraps=openai_wire._decode_json)
    monkeypatch.setattr(openai_wire, "_decode_json", parse)
    answer = AnswerDecoder()
    assert list(answer.feed(hostile)) == []
    with pytest.raises(Truncated):
        answer.feed_eof()
    assert parse.call_count <= MAX_LINES_TRIED + 4


def test_lone_surrogates_and_invalid_utf8_are_replaced() -> None:
    lone = b'data: {"choices": [{"delta": {"content": "a\\ud83d"}}]}\n\n'
    broken = b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'
    assert read(lone + broken + DONE)[0] == "a\ufffd\ufffd"


def test_errors_repeat_neither_the_prompt_nor_the_key() -> None:
    for words in ("no: a long secret prompt", "bad key sk-12345"):
        with pytest.raises(UpstreamError) as caught:
            read(error(words), prompt="a long secret prompt", secret="sk-12345")
        assert "secret" not in caught.value.message
        assert "sk-12345" not in caught.value.message


def test_random_data_never_completes_an_answer() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300):
        data = bytearray(delta("a") + delta("b") + frame(choices=[{"finish_reason": None}]))
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with pytest.raises(UpstreamError):
            read(bytes(data), chance.randrange(1, 80), max_line_bytes=4000)


def test_request_body_of_a_chat() -> None:
    messages = (Message("developer", "Be brief."), Message("user", "Hi 🌸"))
    options = Options(temperature=0.5, max_tokens=7, stop=("\n",), seed=3)
    request = Request(prompt=messages, options=options)
    assert json.loads(build_body(URL, request, "m")) == {
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
        build_body("https://api.openai.com/v1", request, "m", refused={"stream_options"})
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
        (b'{"error": {"code": 1, "metadata": {}}, "detail": "no"}', "no"),
        (b'{"message": "no"}', "no"),
        (b'[{"error": {"message": "no"}}]', "no"),
        (b'{"error": {"message": "{\\"error\\": {\\"message\\": \\"no\\"}}"}}', "no"),
        (b'{"detail": {"error": {"message": "no"}}}', "no"),
        (b'{"detail": ["no", "never"]}', "no; never"),
        (
            b'{"detail": [{"loc": ["body", "n", 0], "msg": "no", "input": "x"}, {"msg": "so"}]}',
            "body.n.0: no; so",
        ),
        (b'{"object": "error", "message": {"detail": [{"loc": ["n"], "msg": "no"}]}}', "n: no"),
        (b'{"errors": [{"message": "no"}]}', "no"),
        (b'{"error": "", "error_description": "no"}', "no"),
        (b'event: error\ndata: {"detail": "no"}\n\n', "no"),
        (b"no such thing", "no such thing"),
        (b"<html>", ""),
        (b"[1]", ""),
        (b'{"error": {"message": 5}}', ""),
        (b"", ""),
    ],
)
def test_detail_of_a_refusal_in_any_shape(body: bytes, detail: str) -> None:
    assert refusal_detail(body).detail == detail


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 42903}, RateLimited),
        ({"code": "429"}, RateLimited),
        ({"code": "Throttling.RateQuota"}, RateLimited),
        ({"status": "RESOURCE_EXHAUSTED", "code": None}, RateLimited),
        ({"code": 40303}, Rejected),
        ({"code": "InvalidParameter"}, Rejected),
        ({"code": "context_length_exceeded", "type": "server_error"}, Rejected),
        ({"code": 50002}, Overloaded),
        ({"code": "InternalError.Timeout"}, Overloaded),
        ({"type": "overloaded_error"}, Overloaded),
        ({"code": "1302", "message": "rate limit"}, RateLimited),
        ({"code": True, "message": "prompt is too long: 9 tokens > 8 maximum"}, Rejected),
        ({"code": "unheard_of"}, UpstreamError),
    ],
)
def test_error_class_of_a_reported_error(error: dict[str, Any], kind: type[UpstreamError]) -> None:
    assert read_error({"error": error}).kind is kind


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        ({"message": "Please try again in 1m6.5s."}, 66.5),
        ({"message": "Please try again in 250ms."}, 0.25),
        ({"message": "slow", "retry_after": 17}, 17.0),
        ({"message": "slow", "retry_after_ms": "250"}, 0.25),
        ({"details": [{"@type": "x"}, {"retryDelay": "17s"}]}, 17.0),
        ({"metadata": {"headers": {"X-RateLimit-Reset": "1"}}}, 0.0),
        ({"message": "try again in a while", "retry_after": "soon"}, None),
        ({"retry_after": 10**400}, None),
        ({"retry_after": 1e9}, 6 * 3600.0),
    ],
)
def test_retry_delay_of_a_reported_error(error: dict[str, Any], wait_s: float | None) -> None:
    assert read_error({"error": error}).wait_s == wait_s


@pytest.mark.parametrize(
    ("status", "words", "sent", "field"),
    [
        (400, b"Unknown parameter: stream_options", b'{"stream_options": {}}', "stream_options"),
        (
            400,
            b"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            b'{"max_tokens": 1}',
            "max_tokens",
        ),
        (422, b'["body", "max_completion_tokens"]: extra fields not permitted',
         b'{"max_completion_tokens": 1}', "max_completion_tokens"),
        (400, b"max_tokens must be below 9", b'{"max_tokens": 10}', None),
        (400, b"Unsupported parameter: 'max_tokens'", b"{}", None),
        (500, b"Unknown parameter: stream_options", b"{}", None),
    ],
)  # fmt: skip
def test_refused_field_that_can_be_left_out_is_found(
    status: int, words: bytes, sent: bytes, field: str | None
) -> None:
    assert find_refused(status, words, sent, frozenset()) == field


@pytest.mark.parametrize(
    "host", ["api.openai.com", "eu.api.openai.com", "x.openai.azure.com", "x.services.ai.azure.com"]
)
def test_openai_hosts_get_the_newer_name_of_max_tokens(host: str) -> None:
    request = Request(prompt="hi", options=Options(max_tokens=7))
    assert b'"max_completion_tokens":7' in build_body(f"https://{host}/v1", request, "m")
    assert b'"max_tokens":7' in build_body(f"https://{host}.example/v1", request, "m")


LISTED = ("llama3.2:latest", "models/gemini-2.5-flash", "a/b", "x/gpt", "y/gpt", "vendor/m")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("models/a/b", "a/b"),
        ("a/b:nitro", "a/b:nitro"),
        ("a/b:online", "a/b:online"),
        ("m", "vendor/m"),
        ("gpt", None),
        ("a/b:70b", None),
        ("llama3.1", None),
        ("", None),
    ],
)
def test_short_model_name_finds_the_listed_model(name: str, found: str | None) -> None:
    assert find_listed(name, LISTED) == found


def test_default_model_is_the_first_chat_model() -> None:
    others = ["nomic-embed-text", "bge-m3", "whisper-1", "tts-1", "dall-e-3", "omni-moderation"]
    assert default_model([*others, "llama3.2", "qwen3"]) == "llama3.2"
    assert default_model(others) == ""


def test_model_lists_of_any_shape_are_parsed() -> None:
    for bare in (b'[{"id": "b"}, {"id": "a"}]', b'["b", "a"]', b'{"models": [{"name": "b"}, "a"]}'):
        assert parse_models(bare) == ["b", "a"]
    assert parse_models(b"[]") == []
    assert parse_models(b'{"data": [{"id": "a"}, {}, 7]}') == ["a"]
    body = json.dumps({"data": [{"id": "b"}, {"id": "a"}, {"id": "b"}, {"id": "x\n"}, {"id": ""}]})
    assert parse_models(body.encode()) == ["b", "a"]
    assert parse_models(b'{"object": "list", "data": null}') == []
    for wrong in (b"", b"{}", b"7", b'{"data": [1]}', b'{"data": {"id": "a"}}', b'{"data": [{}]}'):
        with pytest.raises(ProtocolViolation):
            parse_models(wrong)
