"""Answers as servers on OpenAI's wire really send them, and what a job of each must become.

`tests/data/openai_wire.json` holds answers that were recorded, or taken from the bug reports of
projects that read them. Each is played by an HTTP server to a worker; `SHAPES` are more of the same
kinds. Then such frames are composed in any order and cut anywhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from darkq import Client, JobFailed, Settings
from darkq_worker.pieces import assemble
from darkq_worker.upstreams.base import EmptyAnswer, End, Truncated, UpstreamError
from darkq_worker.upstreams.openai_wire import AnswerDecoder
from support.openai_frames import DONE, delta, error, finish, frame, usage
from support.recorded_http import RecordedServer, Recording

CASES = json.loads((Path(__file__).parents[2] / "data" / "openai_wire.json").read_bytes())

ALPHA = delta("Alpha ")
TEXT = ALPHA + delta("beta")
MESSAGE = {"role": "assistant", "content": "Alpha beta"}
COUNTS = {"prompt_tokens": 7, "completion_tokens": 3}
WHOLE = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    "usage": COUNTS,
}


def data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def parts(*contents: object) -> bytes:
    return data({"choices": [{"index": 0, "delta": {"content": list(contents)}}]})


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


class Shape(NamedTuple):
    """An answer, and what becomes of it: a text, or words that the failure must quote."""

    body: bytes
    text: str | None = None
    reason: str = "stop"
    code: str | None = None
    quotes: str = ""
    counts: dict[str, int] | None = None
    content_type: str | None = "text/event-stream"


def whole(body: bytes, **more: Any) -> Shape:
    return Shape(body, text="Alpha beta", **more)


def failed(body: bytes, code: str, quotes: str = "", **more: Any) -> Shape:
    return Shape(body, code=code, quotes=quotes, **more)


SHAPES: dict[str, Shape] = {
    # The end of the text
    "stop and no DONE": whole(TEXT + finish()),
    "stop, no blank line, no DONE": whole(TEXT + finish().rstrip()),
    "DONE without a blank line": whole(TEXT + b"data: [DONE]"),
    "DONE in quotes": whole(TEXT + b'data: "[DONE]"\n\n'),
    "neither stop nor DONE": failed(TEXT, "truncated"),
    "null as a string on each chunk": whole(
        delta("Alpha ", finish_reason="null") + delta("beta", finish_reason="null") + DONE
    ),
    "stop on each chunk": whole(
        delta("Alpha ", finish_reason="stop") + delta("beta", finish_reason="stop") + DONE
    ),
    "stop first, and then cut off": failed(finish() + TEXT, "truncated"),
    "stop on each piece of reasoning": whole(
        frame(choices=[{"delta": {"reasoning_content": "hm"}, "finish_reason": "stop"}]) * 3
        + TEXT
        + finish()
        + DONE
    ),
    "text after a stop": whole(ALPHA + finish() + delta("beta") + DONE),
    "a word that nobody knows": whole(TEXT + finish("eot") + DONE, reason="eot"),
    "a word that nobody knows, and no DONE": whole(TEXT + finish("eot"), reason="eot"),
    "Gemini's words": whole(TEXT + finish("MAX_TOKENS") + DONE, reason="length"),
    "Mistral's words": whole(TEXT + finish("model_length") + DONE, reason="length"),
    "Anthropic's words": whole(TEXT + finish("end_turn") + DONE),
    "a network error of theirs": failed(TEXT + finish("network_error") + DONE, "upstream_error"),
    "no resources": failed(
        TEXT + finish("insufficient_system_resource") + DONE, "upstream_overloaded"
    ),
    "an event named error": failed(
        TEXT + b"event: error\ndata: [DONE]\n\n" + DONE, "upstream_error"
    ),
    "aborted": failed(TEXT + finish("abort") + DONE, "upstream_error"),
    # What was not understood
    "a vendor's event, then DONE": failed(
        TEXT + data({"vendor": "event-17"}) + DONE, "truncated", "event-17"
    ),
    "a vendor's event, then stop": whole(TEXT + data({"vendor": "event-17"}) + finish() + DONE),
    "a word that nobody knows after a vendor's event": failed(
        TEXT + data({"vendor": "event-17"}) + finish("eot") + DONE, "truncated", "event-17"
    ),
    "text that has no place": failed(
        ALPHA + data({"text": "beta"}) + finish() + DONE, "truncated", "beta"
    ),
    "a content that is a number": failed(
        ALPHA + data({"choices": [{"delta": {"content": 17}}]}) + finish() + DONE, "truncated", "17"
    ),
    "a line that is no field, then DONE": failed(
        TEXT + b"Internal Server Error\n\n" + DONE, "truncated", "Internal Server Error"
    ),
    "pings in every form": whole(
        b": ping\n\nevent: ping\ndata: {}\n\n"
        + data({"type": "ping"})
        + b"data: : PROCESSING\n\ndata:\n\n"
        + TEXT
        + DONE
    ),
    "data twice": whole(b"data: " + ALPHA + b"data: " + delta("beta") + DONE),
    "blanks before data": whole(b"  " + ALPHA + b"  " + delta("beta") + DONE),
    # Errors
    "object error": failed(
        TEXT + data({"object": "error", "message": "boom", "code": 50001}) + DONE,
        "upstream_overloaded",
        "boom",
    ),
    "detail": failed(TEXT + data({"detail": "boom"}) + DONE, "upstream_error", "boom"),
    "success false": failed(
        TEXT + data({"success": False, "msg": "boom"}) + DONE, "upstream_error", "boom"
    ),
    "nested twice": failed(
        TEXT + data({"error": {"error": {"message": "boom", "code": 429}}}), "rate_limited", "boom"
    ),
    "JSON within the message": failed(
        TEXT + data({"error": {"message": '{"error": {"message": "boom", "code": 400}}'}}),
        "rejected",
        "boom",
    ),
    "a list": failed(data([{"error": {"code": 429, "message": "boom"}}]), "rate_limited", "boom"),
    "status and no object": failed(
        data({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "boom"}}),
        "upstream_error",
        "boom",
    ),
    "in the choice": failed(
        TEXT + frame(choices=[{"delta": {}, "error": {"code": 502, "message": "boom"}}]),
        "upstream_overloaded",
        "boom",
    ),
    "error: with too long a prompt": failed(
        b'error: {"code":400,"message":"the request exceeds the available context size",'
        b'"type":"exceed_context_size_error"}\n\n' + DONE,
        "rejected",
        "available context size",
    ),
    "too long a prompt, in words only": failed(
        data({"error": "maximum context length is 4096 tokens"}), "rejected", "4096"
    ),
    "a plain word": failed(b"error: boom\n\n" + DONE, "upstream_error", "boom"),
    "error and no line feed": failed(
        b'{"error": {"message": "boom", "code": 400}}', "rejected", "boom"
    ),
    "error on many lines": failed(
        json.dumps({"error": {"message": "boom", "code": 400}}, indent=2).encode(),
        "rejected",
        "boom",
    ),
    # What comes under HTTP 200
    "JSON error": failed(
        b'{"error": {"message": "No endpoints found", "code": 404}}',
        "rejected",
        "No endpoints",
        content_type="application/json",
    ),
    "JSON error about the model": failed(
        b'{"error": {"message": "The model m does not exist", "code": "404"}}',
        "unknown_model",
        "says: The model m does not exist",
        content_type="application/json",
    ),
    "text/plain": whole(TEXT + finish() + DONE, content_type="text/plain"),
    "PHP's text/html": whole(TEXT + finish() + DONE, content_type="text/html; charset=UTF-8"),
    "JSON by its type": whole(TEXT + finish() + DONE, content_type="application/json"),
    "no type": whole(TEXT + finish() + DONE, content_type=None),
    "ndjson": whole(
        (TEXT + finish()).replace(b"data: ", b"").replace(b"\n\n", b"\n"),
        content_type="application/x-ndjson",
    ),
    "an HTML page": failed(b"<!DOCTYPE html>\n<h1>Sign in</h1>\n", "protocol_violation", "HTML"),
    "another JSON object": failed(b'{"hello": 17}', "protocol_violation", "hello"),
    "a whole completion in the stream": whole(data(WHOLE) + DONE, counts=COUNTS),
    "a whole completion on many lines": whole(
        json.dumps(WHOLE, indent=2).encode(), counts=COUNTS, content_type="application/json"
    ),
    "a whole completion of parts": whole(
        data({"choices": [{"message": {"content": [text_part("Alpha "), text_part("beta")]}}]})
        + DONE
    ),
    "the sum after the deltas": whole(TEXT + data(WHOLE) + DONE, counts=COUNTS),
    "another sum after the deltas": failed(ALPHA + data(WHOLE) + DONE, "truncated"),
    "sums beside the deltas": whole(
        data({"choices": [{"delta": {"content": "Alpha "}, "message": {"content": "Alpha "}}]})
        + data({"choices": [{"delta": {"content": "beta"}, "message": MESSAGE}]})
        + data({"choices": [{"delta": {}, "message": MESSAGE, "finish_reason": "stop"}]})
    ),
    "prompts' older wire": whole(
        data({"choices": [{"text": "Alpha "}]})
        + data({"choices": [{"text": "beta", "finish_reason": "stop"}]})
    ),
    # Content
    "parts alone": whole(parts(text_part("Alpha ")) + parts(text_part("beta")) + finish() + DONE),
    "strings as parts": whole(parts("Alpha ", text_part("beta")) + DONE),
    "one part without a list": whole(
        ALPHA + data({"choices": [{"delta": {"content": text_part("beta")}}]}) + DONE
    ),
    "thinking and a reference": whole(
        parts({"type": "thinking", "thinking": [text_part("hm")]}, text_part("Alpha "))
        + parts(text_part("beta"), {"type": "reference", "reference_ids": [1]})
        + DONE
    ),
    "a part that nobody knows": failed(
        ALPHA + parts({"type": "poem", "text": "beta"}) + finish(), "truncated", "poem"
    ),
    "every choice at 1": whole(delta("Alpha ", index=1) + delta("beta", index=1) + DONE),
    "index null": whole(delta("Alpha ", index=None) + delta("beta", index=None) + DONE),
    "thinking at 0 beside text at 1": whole(
        frame(
            choices=[
                {"index": 0, "delta": {"reasoning_content": "hm"}},
                {"index": 1, "delta": {"content": "Alpha beta"}},
            ]
        )
        + finish()
    ),
    # Usage
    "choices null": whole(
        TEXT + finish() + data({"choices": None, "usage": COUNTS}) + DONE, counts=COUNTS
    ),
    "floats": whole(
        TEXT + frame(choices=[{"delta": {}, "finish_reason": "stop"}],
                     usage={"prompt_tokens": 7.0, "completion_tokens": 3.0}),
        counts=COUNTS,
    ),
    "a running count": whole(
        frame(choices=[{"delta": {"content": "Alpha "}}],
              usage={"prompt_tokens": 7, "completion_tokens": 1})
        + frame(choices=[{"delta": {"content": "beta"}, "finish_reason": "stop"}],
                usage={"prompt_tokens": 7, "completion_tokens": 2})
        + usage(7, 3)
        + DONE,
        counts=COUNTS,
    ),
    "a true count, and then zeros": whole(TEXT + usage(7, 3) + finish() + usage(0, 0) + DONE,
                                          counts=COUNTS),
    "Groq's": whole(TEXT + finish() + frame(choices=[], x_groq={"usage": COUNTS}) + DONE,
                    counts=COUNTS),
    "Moonshot's": whole(
        TEXT + frame(choices=[{"delta": {}, "finish_reason": "stop", "usage": COUNTS}]) + DONE,
        counts=COUNTS,
    ),
    "other words": whole(
        TEXT + finish() + data({"usage": {"input_tokens": 7, "output_tokens": 3}}) + DONE,
        counts=COUNTS,
    ),
    "no counts but zeros": whole(TEXT + finish() + usage(0, 0) + DONE, counts={}),
}  # fmt: skip

StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]


async def run(
    recordings: dict[str, Recording],
    client: Client,
    make_settings: MakeSettings,
    start_worker: StartWorker,
) -> dict[str, Any]:
    """Return what a job of each recording becomes: its result, or its failure."""
    async with RecordedServer(recordings) as server:
        upstreams = {name: {"url": server.url_of(name), "models": "m"} for name in recordings}
        settings = make_settings(
            darkai_url="none", upstreams=upstreams, retry_base_s=0.01, worker_jobs=50
        )
        start_worker(settings)
        jobs = {name: await client.enqueue("hi", upstream=name) for name in recordings}
        became: dict[str, Any] = {}
        for name, job in jobs.items():
            try:
                became[name] = await job.result(timeout_s=30)
            except JobFailed as failure:
                became[name] = failure
    return became


def mismatch(became: Any, expected: dict[str, Any]) -> str | None:
    """Return in which way a job is not what was expected."""
    if expected["outcome"] == "failed":
        if not isinstance(became, JobFailed):
            return f"completed with {became.text!r}"
        if expected.get("message_contains", "") not in became.message:
            return f"says {became.message!r}"
        codes = expected.get("code_one_of", [became.code])
        return None if became.code in codes else f"is {became.code}: {became.message}"
    if isinstance(became, JobFailed):
        return f"failed: {became}"
    counts = became.usage and {
        "prompt_tokens": became.usage.prompt_tokens,
        "completion_tokens": became.usage.completion_tokens,
    }
    found = {"text": became.text, "finish_reason": became.finish_reason, "usage": counts or {}}
    wrong = {
        field: value
        for field, value in found.items()
        if field in expected and value != expected[field]
    }
    return f"has {wrong}" if wrong else None


async def test_jobs_end_as_recorded_for_real_servers(
    client: Client, make_settings: MakeSettings, start_worker: StartWorker
) -> None:
    """Red where `[DONE]` ends any stream, and where a Content-Type is believed."""
    names = {case["name"]: f"c{number}" for number, case in enumerate(CASES)}
    recordings = {names[case["name"]]: Recording.of(case["response"]) for case in CASES}
    became = await run(recordings, client, make_settings, start_worker)
    found = {
        case["name"]: mismatch(became[names[case["name"]]], case["expected"]) for case in CASES
    }
    assert {name: what for name, what in found.items() if what} == {}


async def test_jobs_end_as_unusual_servers_mean(
    client: Client, make_settings: MakeSettings, start_worker: StartWorker
) -> None:
    """Red with any entry taken out of the tables of words, codes and shapes."""
    names = {name: f"c{number}" for number, name in enumerate(SHAPES)}
    recordings = {
        names[name]: Recording((shape.body,), content_type=shape.content_type)
        for name, shape in SHAPES.items()
    }
    became = await run(recordings, client, make_settings, start_worker)
    found = {name: mismatch(became[names[name]], expected(shape)) for name, shape in SHAPES.items()}
    assert {name: what for name, what in found.items() if what} == {}


def expected(shape: Shape) -> dict[str, Any]:
    if shape.text is None:
        code = [shape.code]
        return {"outcome": "failed", "message_contains": shape.quotes, "code_one_of": code}
    counts = {} if shape.counts is None else {"usage": shape.counts}
    fields = {"text": shape.text, "finish_reason": shape.reason}
    return {"outcome": "completed", **fields, **counts}


# Frames in any order, cut anywhere


class Said(NamedTuple):
    """A frame, and what it adds: text, an end, or something that forbids one."""

    body: bytes
    text: str = ""
    ends: str = ""  # "stop", "word", "done"
    spoils: str = ""  # "hole", "foreign", "error"


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
texts = words.flatmap(
    lambda word: st.sampled_from(
        [
            Said(delta(word), word),
            Said(delta(word, index=1), word),
            Said(parts(text_part(word)), word),
            Said(parts({"type": "thinking", "thinking": "hm"}, word), word),
            Said(delta(word, finish_reason=""), word),
            Said(delta(word, finish_reason="stop"), word, ends="stop"),
        ]
    )
)
neutral = st.sampled_from(
    [
        *(Said(b": ping\n\n"), Said(data({"type": "ping"})), Said(usage(7, 3)), Said(delta(None))),
        *(Said(data({"usage": COUNTS})), Said(data({"choices": None, "usage": COUNTS}))),
        Said(frame(choices=[{"delta": {"reasoning_content": "hm"}}])),
    ]
)
ends = st.sampled_from(
    [
        *(Said(finish(), ends="stop"), Said(finish("max_tokens"), ends="stop")),
        *(Said(finish("eot"), ends="word"), Said(DONE, ends="done")),
    ]
)
spoilers = st.sampled_from(
    [
        Said(b'data: {"choices":[{"delta":{"content":"be\n\n', spoils="hole"),
        Said(data({"text": "lost"}), spoils="hole"),
        Said(data({"choices": [{"delta": {"content": 17}}]}), spoils="hole"),
        Said(data({"vendor": 1}), spoils="foreign"),
        Said(b"data: what\n\n", spoils="foreign"),
        Said(b"what\n\n", spoils="foreign"),
        Said(error("boom"), spoils="error"),
        Said(b'error: {"message": "boom"}\n\n', spoils="error"),
        Said(data({"detail": "boom"}), spoils="error"),
        Said(finish("network_error"), spoils="error"),
    ]
)
streams = st.lists(st.one_of(texts, texts, neutral, ends, spoilers), max_size=8)


def may_complete(said: list[Said]) -> str | None:
    """Return the text with which such a stream is complete, or None: the rule, once more."""
    done = next((n for n, each in enumerate(said) if each.ends == "done"), None)
    said = said[: None if done is None else done + 1]
    last_text = max((n for n, each in enumerate(said) if each.text), default=None)
    if last_text is None:
        return None
    stops = [n for n, each in enumerate(said) if each.ends == "stop"]
    is_early = any(n < last_text for n, each in enumerate(said) if each.ends in ("stop", "word"))
    whole_at = next((n for n in stops if n >= last_text), None)
    reached = len(said) if is_early or whole_at is None else whole_at
    before = said[:reached]
    if any(each.spoils in ("hole", "error") for each in before):
        return None
    if whole_at is None:
        word = any(each.ends == "word" for each in said[last_text + 1 :])
        if (done is None and not word) or any(each.spoils for each in said):
            return None
    return "".join(each.text for each in said)


@settings(max_examples=600)
@example(  # an early stop, a good one, and then a word and an event that nobody knows
    said=[
        Said(delta("a", finish_reason="stop"), "a", ends="stop"),
        Said(delta("b", finish_reason="stop"), "b", ends="stop"),
        Said(finish("eot"), ends="word"),
        Said(data({"vendor": 1}), spoils="foreign"),
    ],
    cuts=[40],
)
@given(said=streams, cuts=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_frames_in_any_order_complete_or_fail(said: list[Said], cuts: list[int]) -> None:
    """Red where `[DONE]` forgives a hole, and where a stop ends an answer that goes on."""
    stream = b"".join(each.body for each in said)
    answer, text = AnswerDecoder(), ""
    outcome: End | UpstreamError
    try:
        place = turn = 0
        while place < len(stream) and not answer.is_complete:
            size = cuts[turn % len(cuts)]
            text += assemble(answer.feed(stream[place : place + size]))[0]
            place, turn = place + size, turn + 1
        text += assemble(answer.feed_eof())[0]
        outcome = answer.end
    except UpstreamError as failure:
        outcome = failure
    wanted = may_complete(said)
    if wanted is None:
        assert isinstance(outcome, UpstreamError), f"completed with {text!r}"
    else:
        assert isinstance(outcome, End), f"{outcome!r} and not {wanted!r}"
        assert text == wanted
    if isinstance(outcome, Truncated | EmptyAnswer):
        assert outcome.retryable


@pytest.mark.parametrize("words", ["a long secret prompt", "sk-12345"])
def test_quoted_error_contains_neither_prompt_nor_key(words: str) -> None:
    answer = AnswerDecoder(prompt="a long secret prompt", secret="sk-12345")
    with pytest.raises(Truncated) as caught:
        list(answer.feed(delta("a") + b'data: {"choices": "' + words.encode() + b"\n\n"))
    assert words not in caught.value.message
    assert len(caught.value.message) < 200
