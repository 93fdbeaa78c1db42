"""What a request may say. Nothing is ignored in silence.

A parameter is honoured, or it may be there with a value that asks for nothing that darkq does not
do, or it is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from darkq_gateway.errors import ApiError

Harmless: TypeAlias = Callable[[Any], bool]


def anything(_: Any) -> bool:
    """What is for OpenAI's own bookkeeping and changes no answer."""
    return True


def nothing(value: Any) -> bool:
    """What is off: null, false, 0, or empty."""
    return not value


def one_of(*values: Any) -> Harmless:
    """What says the default in so many words."""
    return lambda value: value is None or value in values


COMMON: Mapping[str, Harmless] = {
    "tools": nothing,
    "tool_choice": one_of("none", "auto"),
    "parallel_tool_calls": anything,
    "top_logprobs": nothing,
    "service_tier": one_of("auto", "default"),
    "store": anything,
    "user": anything,
    "safety_identifier": anything,
    "prompt_cache_key": anything,
    "prompt_cache_retention": anything,
}

CHAT: Mapping[str, Harmless] = {
    **COMMON,
    "n": one_of(1),
    "logprobs": nothing,
    "logit_bias": nothing,
    "functions": nothing,
    "function_call": one_of("none", "auto"),
    "response_format": one_of({"type": "text"}),
    "modalities": one_of(["text"]),
    "audio": nothing,
    "prediction": nothing,
    "reasoning_effort": nothing,
    "verbosity": one_of("medium"),
    "web_search_options": nothing,
}

RESPONSES: Mapping[str, Harmless] = {
    **COMMON,
    "conversation": nothing,
    "previous_response_id": nothing,
    "prompt": nothing,
    "include": nothing,
    "reasoning": nothing,
    "max_tool_calls": nothing,
    "truncation": one_of("disabled"),
    "text": one_of(
        {}, {"format": {"type": "text"}}, {"format": {"type": "text"}, "verbosity": "medium"}
    ),
}


def refuse_others(
    body: Mapping[str, Any], honoured: Collection[str], harmless: Mapping[str, Harmless]
) -> None:
    """Raise `ApiError` for the first parameter that cannot be honoured."""
    for name, value in body.items():
        if name in honoured:
            continue
        if name not in harmless:
            raise ApiError(
                400, "unknown_parameter", f"unknown parameter: {_short(name)}", _short(name)
            )
        if not harmless[name](value):
            message = f"{name} cannot be honoured here: leave it out"
            raise ApiError(400, "unsupported_parameter", message, name)


def _short(name: str) -> str:
    """A name of a stranger's choice, cut, and without what would disturb a reader."""
    return "".join(char for char in name[:64] if char.isprintable())
