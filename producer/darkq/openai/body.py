"""Parsing of OpenAI request bodies into the arguments of a job. No I/O.

Each parameter is supported, or has no effect on the answer, or is rejected by name, so that no
request is answered differently than it was asked. Errors contain the name of the parameter, and
never its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from darkq.errors import InvalidJob
from darkq.protocol.job import Job, Prompt, Role
from darkq.protocol.options import OPTIONS
from darkq.protocol.validation import UNKNOWN, show_name

Endpoint: TypeAlias = Literal["/v1/chat/completions", "/v1/responses"]
CHAT: Endpoint = "/v1/chat/completions"
RESPONSES: Endpoint = "/v1/responses"

IRRELEVANT = frozenset(
    (
        *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "store"),
        *("service_tier", "stream_options", "parallel_tool_calls", "background"),
    )
)
"""Parameters without any effect on the answer."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
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

OF_ANSWERS = frozenset(
    (
        *("name", "id", "annotations", "reasoning", "reasoning_content", "reasoning_details"),
        *("thinking_blocks", "provider_specific_fields"),
    )
)
"""Fields that services add to an answer's message. Dropped if a client sends them back."""

EMPTY: tuple[object, ...] = (None, "", [], {})

NAMES: Mapping[str, str] = {
    "max_output_tokens": "max_tokens",
}
"""Names in OpenAI's API that differ from the job's option."""
_NAMES_OF_RESPONSES = {"max_tokens": "max_output_tokens"}

_FOLLOWING = ("tool_choice", "function_call", "top_logprobs")
"""Parameters that refine another one: an error names the other one first."""


class Asked(NamedTuple):
    """A parsed body. `prompt_field` is the parameter of its prompt."""

    prompt_field: str
    prompt: Prompt
    model: str | None
    options: dict[str, Any]
    metadata: dict[str, str]

    def job(self, **others: Any) -> Job:
        """Return the job. `others` are fields of `Job.create` that override those of the body.

        Raises `InvalidJob`, which names the parameter.
        """
        fields = {
            "model": self.model,
            "options": self.options,
            "metadata": self.metadata,
            **others,
        }
        try:
            return Job.create(self.prompt, **fields)
        except InvalidJob as error:
            field = error.field.removeprefix("options.")
            if self.prompt_field == "input":
                field = _NAMES_OF_RESPONSES.get(field, field)
            if field.startswith("prompt"):
                field = self.prompt_field + field.removeprefix("prompt")
            raise InvalidJob(field, error.reason) from None


def read_body(body: Mapping[str, Any], endpoint: Endpoint) -> Asked:
    """Parse a body. Parameters that are null are ignored. Raises `InvalidJob`."""
    left = {n: v for n, v in body.items() if v is not None and not _is_neutral(n, v)}
    field = "messages" if endpoint == CHAT else "input"
    given = left.pop(field, None)
    if isinstance(given, str) and endpoint == RESPONSES:
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidJob(field, "must be a list of messages" if given is not None else "is missing")
    instructions = left.pop("instructions", None) if endpoint == RESPONSES else None
    model, metadata = left.pop("model", None), left.pop("metadata", {})
    options = take_options(left)
    for name in sorted(left, key=_FOLLOWING.__contains__):
        refuse(name)
    prompt: list[Any] = (
        [_drop_fields(message) for message in given]
        if endpoint == CHAT
        else _input(given, instructions)
    )
    return Asked(field, prompt, model, options, metadata)


def take_options(fields: dict[str, Any]) -> dict[str, Any]:
    """Move the options out of a body's fields. Raises `InvalidJob` for one given twice."""
    options: dict[str, Any] = {}
    for wire_name in [name for name in fields if name in OPTIONS or name in NAMES]:
        name = NAMES.get(wire_name, wire_name)
        if name in options:
            raise InvalidJob(wire_name, f"is given beside another {name}")
        options[name] = fields.pop(wire_name)
    return options


def refuse(name: str) -> None:
    """Raise `InvalidJob` for an unknown field."""
    raise InvalidJob(show_name(name), UNKNOWN)


def _is_neutral(name: str, value: object) -> bool:
    # In Python, True == 1; in JSON it is no number.
    return name in IRRELEVANT or any(
        value == same and isinstance(value, bool) == isinstance(same, bool)
        for same in NEUTRAL.get(name, ())
    )


def _drop_fields(message: object) -> object:
    """Return a message without fields that have no effect, because chats repeat whole answers.

    Empty fields such as `tool_calls: []` and `refusal: null` are dropped, and so is a user's
    `name`, which no upstream here supports. An answer without text gets an empty one.
    """
    if not isinstance(message, dict):
        return message
    is_answer = message.get("role") == "assistant"
    dropped = OF_ANSWERS if is_answer else ("name",)
    left = {
        name: value
        for name, value in message.items()
        if name == "content" or not (name in dropped or value in EMPTY)
    }
    if left.get("content") is None:
        left.pop("content", None)
        if is_answer:
            left["content"] = ""
    return left


def _input(given: list[Any], instructions: object) -> list[Any]:
    messages = [
        _to_chat_message(item, f"input[{n}]")
        for n, item in enumerate(given)
        if not (isinstance(item, dict) and item.get("type") == "reasoning")
    ]
    if instructions is None:
        return messages
    if not isinstance(instructions, str):
        raise InvalidJob("instructions", "must be a string")
    return [{"role": "system", "content": instructions}, *messages]


def _to_chat_message(item: object, field: str) -> dict[str, Any]:
    """Convert a message of the Responses API to one of the chat API."""
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        raise InvalidJob(field, "must be a message")
    role, content = item.get("role"), item.get("content")
    if role not in get_args(Role):
        raise InvalidJob(field, f"role must be {', '.join(get_args(Role))}")
    if isinstance(content, list):
        texts = [_read_text(part) for part in content]
        if None in texts:
            raise InvalidJob(field, "may have parts of text only")
        content = [{"type": "text", "text": text} for text in texts]
    elif not isinstance(content, str):
        raise InvalidJob(field, "content must be a string or a list of parts")
    return {"role": role, "content": content}


def _read_text(part: object) -> str | None:
    if not isinstance(part, dict) or part.get("type") not in ("input_text", "output_text"):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None
