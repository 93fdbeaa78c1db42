"""Answers with more than text, in the frames that well-known services send them in."""

from __future__ import annotations

import json
from typing import Any

from support.openai_frames import DONE, delta, finish, frame, usage


def say(**fields: Any) -> bytes:
    """A delta with any fields."""
    return frame(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


def calls(*calls: dict[str, Any], reason: str | None = None) -> bytes:
    """A delta of tool calls, which may end the answer."""
    fields = {"tool_calls": list(calls)}
    return frame(choices=[{"index": 0, "delta": fields, "finish_reason": reason}])


def first(index: int | None, call_id: str | None, name: str, arguments: str = "") -> dict[str, Any]:
    """The beginning of a call, without what is None."""
    fields = {"index": index, "id": call_id, "type": "function"}
    given = {name: value for name, value in fields.items() if value is not None}
    return {**given, "function": {"name": name, "arguments": arguments}}


def more(index: int, arguments: str) -> dict[str, Any]:
    """A piece of the arguments of a call."""
    return {"index": index, "function": {"arguments": arguments}}


def token(text: str, logprob: float, **more: Any) -> dict[str, Any]:
    """The log probability of a token."""
    return {"token": text, "logprob": logprob, **more}


WEATHER = {"city": "Zürich", "days": 3}
PIECES = ('{"ci', 'ty": "Zü', 'rich", ', '"days"', ": 3}")
ARGUMENTS = "".join(PIECES)
assert json.loads(ARGUMENTS) == WEATHER

_CITED = {
    "type": "url_citation",
    "url_citation": {"url": "https://e.org", "title": "E", "start_index": 0, "end_index": 4},
}
_LOGPROBS = [
    token("So", -0.1, bytes=[83, 111], top_logprobs=[token("So", -0.1, bytes=None)]),
    token("!", -0.5, bytes=None, top_logprobs=[]),
]
_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_cache_hit_tokens": 16,
    "completion_tokens_details": {"reasoning_tokens": 5},
}

STORIES: dict[str, list[bytes]] = {
    "openai: text": [
        *(say(role="assistant", content="", refusal=None), say(content="Hi "), say(content="you")),
        *(finish(), usage(3, 2), DONE),
    ],
    "vllm: one call in many pieces": [
        say(role="assistant", content=""),
        calls(first(0, "chatcmpl-tool-1", "weather")),
        *(calls(more(0, piece)) for piece in PIECES),
        *(finish("tool_calls"), usage(30, 12), DONE),
    ],
    "openai: parallel calls": [
        say(role="assistant", content=None),
        calls(first(0, "call_1", "weather")),
        *(calls(more(0, piece)) for piece in PIECES),
        calls(first(1, "call_2", "time")),
        calls(more(1, "{}")),
        *(finish("tool_calls"), DONE),
    ],
    "calls whose pieces alternate": [
        calls(first(0, "call_1", "weather", PIECES[0]), first(1, "call_2", "time", "{")),
        calls(more(0, "".join(PIECES[1:]))),
        calls(more(1, "}")),
        *(finish("tool_calls"), DONE),
    ],
    "mistral: whole calls in the last frame": [
        calls(
            first(None, "D681PevKs", "weather", ARGUMENTS),
            first(None, "D681PevKt", "weather", ARGUMENTS),
            reason="tool_calls",
        ),
        DONE,
    ],
    "ollama: a call without an id": [
        calls(first(0, None, "weather", ARGUMENTS)),
        *(finish("stop"), DONE),
    ],
    "llama.cpp: text, then a call": [
        *(delta("Let me "), delta("look.")),
        calls(first(0, "lc1", "weather", PIECES[0])),
        *(calls(more(0, piece)) for piece in PIECES[1:]),
        *(finish("tool_calls"), DONE),
    ],
    "deepseek: reasoning, then text": [
        say(role="assistant", content=None, reasoning_content=""),
        *(say(reasoning_content="They "), say(reasoning_content="wait.")),
        *(say(content="Because"), say(content=".")),
        *(finish(), frame(choices=[], usage=_USAGE), DONE),
    ],
    "openrouter: reasoning, then a call": [
        say(
            content="",
            reasoning="Hm.",
            reasoning_details=[{"type": "reasoning.text", "text": "Hm."}],
        ),
        calls(first(0, "toolu_1", "weather", ARGUMENTS)),
        *(finish("tool_calls"), DONE),
    ],
    "mistral: thinking parts": [
        say(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]),
        say(content=[{"type": "text", "text": "Yes."}]),
        *(finish(), DONE),
    ],
    "gemini: reasoning again and again": [
        *(say(reasoning="One. "), say(reasoning="Two."), say(content="A"), say(reasoning="Three.")),
        *(say(content="B"), calls(first(0, "g1", "weather", ARGUMENTS)), say(reasoning="Four.")),
        *(say(content="C"), finish("tool_calls"), DONE),
    ],
    "a call before any text": [
        calls(first(0, "call_1", "weather", ARGUMENTS)),
        *(delta("Looking."), finish("tool_calls"), DONE),
    ],
    "openai: a refusal": [
        *(say(role="assistant", content=None, refusal=""), say(refusal="I can't ")),
        *(say(refusal="help."), finish(), DONE),
    ],
    "openai: log probabilities": [
        delta("So", logprobs={"content": _LOGPROBS[:1], "refusal": None}),
        delta("!", logprobs={"content": _LOGPROBS[1:]}),
        *(finish(), DONE),
    ],
    "openrouter: citations": [
        *(delta("E is."), say(content="", annotations=[_CITED])),
        *(finish(), DONE),
    ],
    "a call that reached the limit of tokens": [
        delta("Let me look."),
        calls(first(0, "call_1", "weather", ARGUMENTS), first(1, "call_2", "weather", PIECES[0])),
        *(finish("length"), DONE),
    ],
    "a text that was filtered": [delta("Half"), finish("content_filter"), DONE],
}
"""By the name of the service, or of what is special."""
