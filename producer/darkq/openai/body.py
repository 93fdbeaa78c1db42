"""Parsing of OpenAI request bodies into the arguments of a job. No I/O.

What darkq acts upon is checked here, and so is what it could not keep: that is refused by name. All
other parameters are kept as they came, and the upstream judges them. Errors contain the name of the
parameter, and never its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from darkq.errors import InvalidJob
from darkq.openai.response_body import MAX_OUTPUT_TOKENS, NAMES_OF_RESPONSES, to_chat
from darkq.protocol.job import Job
from darkq.protocol.options import OPTIONS
from darkq.protocol.prompt import Prompt
from darkq.protocol.validation import UNKNOWN, explain_error, show_name

Endpoint: TypeAlias = Literal["/v1/chat/completions", "/v1/responses"]
CHAT: Endpoint = "/v1/chat/completions"
RESPONSES: Endpoint = "/v1/responses"

IRRELEVANT = frozenset(("store", "stream_options", "background"))
"""Parameters for darkq, or without any effect on the answer of a chat."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "text": ({}, {"format": {"type": "text"}}),
    "truncation": ("disabled",),
    "include": ([],),
    "reasoning": ({},),
    "verbosity": ("medium",),
    "stop": ([],),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
}
"""Values of parameters that request the default behaviour."""

_NEUTRAL_WITHOUT_TOOLS: Mapping[str, tuple[object, ...]] = {
    **NEUTRAL,
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "max_tool_calls": tuple(range(1, 1001)),
}

_CAUSES = ("tools", "functions", "logprobs")
"""Parameters on which others depend."""

OF_ANSWERS = frozenset(("id", "annotations", "audio", "provider_specific_fields"))
"""Fields that services add to an answer's message. Dropped if a client sends them back."""

EMPTY: tuple[object, ...] = (None, "", [], {})

NAMES: Mapping[str, str] = {MAX_OUTPUT_TOKENS: "max_tokens"}
"""Names in OpenAI's API that differ from the job's option."""


class _Types(msgspec.Struct):
    """The types of well-known parameters. Their content is for the upstream to judge."""

    tools: list[dict[str, Any]] = []
    functions: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] = ""
    parallel_tool_calls: bool = True
    response_format: dict[str, Any] = {}
    reasoning_effort: str = ""
    verbosity: str = ""
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: dict[str, float] = {}


class Asked(NamedTuple):
    """A parsed body. `prompt_field` is the parameter of its prompt."""

    prompt_field: str
    prompt: Prompt
    model: str | None
    options: dict[str, Any]
    metadata: dict[str, str]
    parameters: Mapping[str, Any] = MappingProxyType({})

    def job(self, **others: Any) -> Job:
        """Return the job. `others` are fields of `Job.create` that override those of the body.

        Raises `InvalidJob`, which names the parameter.
        """
        fields = {name: value for name, value in self._asdict().items() if name != "prompt_field"}
        try:
            return Job.create(**fields | others)
        except InvalidJob as error:
            field = error.field.removeprefix("options.").removeprefix("parameters.")
            if self.prompt_field == "input":
                field = NAMES_OF_RESPONSES.get(field, field)
            if field.startswith("prompt"):
                field = self.prompt_field + field.removeprefix("prompt")
            raise InvalidJob(field, error.reason) from None


def read_body(
    body: Mapping[str, Any], endpoint: Endpoint, history: Sequence[Mapping[str, Any]] = ()
) -> Asked:
    """Parse a body. Parameters that are null are ignored. Raises `InvalidJob`.

    `history` are the messages of the Response that the body continues.
    """
    neutral = NEUTRAL if body.get("tools") or body.get("functions") else _NEUTRAL_WITHOUT_TOOLS
    left = {
        name: value
        for name, value in body.items()
        if value is not None and name not in IRRELEVANT and not _is_neutral(neutral, name, value)
    }
    if endpoint == RESPONSES:
        left = to_chat(left, history)
    given = left.pop("messages", None)
    if not isinstance(given, list):
        reason = "must be a list of messages" if given is not None else "is missing"
        raise InvalidJob("messages", reason)
    model, metadata = left.pop("model", None), left.pop("metadata", {})
    _check_types(left, endpoint)
    options = take_options(left)
    # The upstream refuses the first one that it does not support: name the cause, not its effect.
    left = {name: left[name] for name in sorted(left, key=lambda name: name not in _CAUSES)}
    prompt: list[Any] = [_drop_fields(message) for message in given]
    field = "messages" if endpoint == CHAT else "input"
    return Asked(field, prompt, model, options, metadata, left)


def take_options(fields: dict[str, Any]) -> dict[str, Any]:
    """Move the options out of a body's fields. Raises `InvalidJob` for one given twice."""
    options: dict[str, Any] = {}
    for wire_name in [name for name in fields if name in OPTIONS or name in NAMES]:
        name = NAMES.get(wire_name, wire_name)
        if name in options:
            raise InvalidJob(wire_name, f"is given beside another {name}")
        options[name] = fields.pop(wire_name)
    return options


def _check_types(fields: Mapping[str, Any], endpoint: Endpoint) -> None:
    try:
        msgspec.convert(fields, _Types)
    except msgspec.ValidationError as error:
        wrong = explain_error(error)
        names = NAMES_OF_RESPONSES if endpoint == RESPONSES else {}
        raise InvalidJob(names.get(wrong.field, wrong.field), wrong.reason) from None


def refuse(name: str) -> None:
    """Raise `InvalidJob` for an unknown field."""
    raise InvalidJob(show_name(name), UNKNOWN)


def _is_neutral(neutral: Mapping[str, tuple[object, ...]], name: str, value: object) -> bool:
    # In Python, True == 1; in JSON it is no number.
    return any(
        value == same and isinstance(value, bool) == isinstance(same, bool)
        for same in neutral.get(name, ())
    )


def _drop_fields(message: object) -> object:
    """Return a message without fields that have no effect, because chats repeat whole answers.

    Empty fields such as `tool_calls: []` and `refusal: null` are dropped. An answer without
    anything gets an empty text.
    """
    if not isinstance(message, dict):
        return message
    is_answer = message.get("role") == "assistant"
    left = {
        name: value
        for name, value in message.items()
        if name == "content"
        or not ((is_answer and name in OF_ANSWERS) or (value in EMPTY and name != "tool_call_id"))
    }
    if is_answer and left.get("content") is None:
        is_empty = not left.keys() & {"tool_calls", "function_call", "refusal"}
        left["content"] = "" if is_empty else None
    return left
