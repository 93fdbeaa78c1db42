"""What people put into a batch: a line of a file, read into a job. No I/O.

A line is a request of OpenAI's batch format, a prompt as JSON, or, in a text file, the prompt:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": …}}
    {"custom_id": "a", "prompt": "Why do people queue?"}
    Why do people queue?

What cannot be honoured is refused by name, so that no answer is to another question than was
asked. Errors name the line and the field, and never quote what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import msgspec

from darkq.errors import InvalidJob, InvalidLine
from darkq.job import Job, Priority, Prompt, Role
from darkq.options import OPTIONS

Endpoint: TypeAlias = Literal["/v1/chat/completions", "/v1/responses"]
CHAT: Endpoint = "/v1/chat/completions"
RESPONSES: Endpoint = "/v1/responses"

MAX_LINE_BYTES = 8 << 20
"""A prompt of the greatest length fits, with every character of it escaped."""
MAX_CUSTOM_ID_CHARS = 512

# They change nothing about the answer.
_IRRELEVANT = frozenset(
    (
        *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "store"),
        *("service_tier", "stream_options", "parallel_tool_calls", "background"),
    )
)
# Asking for what is done anyway.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
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
    "stop": ([],),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
}
_NAMES = {"max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens"}
"""What an option of a job is called on OpenAI's wire, where that differs."""


class ForAllLines(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the jobs of a batch are run. `model` is for lines that name none."""

    model: str | None = None
    upstream: str | None = None
    priority: Priority = "bulk"
    tries: int | None = None
    timeout_s: float | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line, read. `endpoint` says which object its answer is to be."""

    number: int
    custom_id: str
    job: Job
    endpoint: Endpoint = CHAT


def text_line(text: bytes, number: int, common: ForAllLines) -> Line:
    """Read a line that is a prompt. `number` is from 1. Raises `InvalidLine`."""
    try:
        prompt = text.decode()
    except UnicodeDecodeError:
        raise InvalidLine(number, "prompt", "is not UTF-8") from None
    job = _job(number, _Ask("prompt", prompt, None, {}), common)
    return Line(number=number, custom_id=_default_id(number), job=job)


def json_line(text: bytes, number: int, common: ForAllLines) -> Line:
    """Read a line of JSON. `number` is from 1. Raises `InvalidLine`."""
    fields = _object(text, number)
    custom_id = _custom_id(fields.pop("custom_id", None), number)
    if "body" not in fields and "prompt" in fields:
        return _plain(fields, number, custom_id, common)
    return _request(fields, number, custom_id, common)


def _object(text: bytes, number: int) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(text)
    except UnicodeDecodeError:
        raise InvalidLine(number, "line", "is not UTF-8", "invalid_json_line") from None
    except msgspec.DecodeError as error:  # its text names a place, never what stands there
        raise InvalidLine(number, "line", str(error), "invalid_json_line") from None
    except RecursionError:
        raise InvalidLine(number, "line", "is nested too deep", "invalid_json_line") from None
    if not isinstance(fields, dict):
        raise InvalidLine(number, "line", "must be a JSON object", "invalid_json_line")
    return fields


def _custom_id(value: object, number: int) -> str:
    if value is None:
        return _default_id(number)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CUSTOM_ID_CHARS:
        reason = f"must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters"
        raise InvalidLine(number, "custom_id", reason)
    return value


def _default_id(number: int) -> str:
    return f"line-{number}"


def _plain(fields: dict[str, Any], number: int, custom_id: str, common: ForAllLines) -> Line:
    prompt = fields.pop("prompt")
    ask = _Ask("prompt", prompt, fields.pop("model", None), _options(fields))
    _none_left(number, "", fields)
    return Line(number=number, custom_id=custom_id, job=_job(number, ask, common))


def _request(fields: dict[str, Any], number: int, custom_id: str, common: ForAllLines) -> Line:
    if fields.pop("method", "POST") != "POST":
        raise InvalidLine(number, "method", "must be POST", "invalid_method")
    url = fields.pop("url", CHAT)
    if url not in get_args(Endpoint):
        raise InvalidLine(number, "url", f"must be {CHAT} or {RESPONSES}", "invalid_url")
    body = fields.pop("body", None)
    if not isinstance(body, dict):
        reason = "must be an object" if body is not None else "is missing, and so is prompt"
        raise InvalidLine(number, "body", reason)
    _none_left(number, "", fields)
    endpoint = cast(Endpoint, url)
    body = {n: v for n, v in body.items() if v is not None and not _is_harmless(n, v)}
    field, prompt = _messages(body, number) if endpoint == CHAT else _input(body, number)
    model, metadata = body.pop("model", None), body.pop("metadata", {})
    ask = _Ask(field, prompt, model, _options(body), metadata)
    _none_left(number, "body.", body)
    return Line(
        number=number, custom_id=custom_id, job=_job(number, ask, common), endpoint=endpoint
    )


def _options(fields: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a job out of a body."""
    names = [name for name in fields if name in OPTIONS or name in _NAMES]
    return {_NAMES.get(name, name): fields.pop(name) for name in names}


def _is_harmless(name: str, value: object) -> bool:
    # True is 1 to Python, and no number to anybody else.
    return name in _IRRELEVANT or any(
        value == same and isinstance(value, bool) == isinstance(same, bool)
        for same in _NEUTRAL.get(name, ())
    )


def _none_left(number: int, path: str, fields: Mapping[str, object]) -> None:
    for name in fields:
        # A field's name is content too, once nobody knows it; a parameter's is not.
        shown = name if name.isidentifier() and len(name) <= 40 else "…"
        raise InvalidLine(number, f"{path}{shown}", "cannot be honoured: leave it out")


def _messages(body: dict[str, Any], number: int) -> tuple[str, list[Any]]:
    messages = body.pop("messages", None)
    if not isinstance(messages, list):
        raise InvalidLine(number, "body.messages", "must be a list of messages")
    return "body.messages", [_without_nulls(message) for message in messages]


def _without_nulls(message: object) -> object:
    """As the SDK's own answers come back in a chat: `refusal`, `tool_calls` and such are null."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value is not None}


def _input(body: dict[str, Any], number: int) -> tuple[str, list[Any]]:
    field, given = "body.input", body.pop("input", None)
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidLine(number, field, "must be a string or a list of messages")
    messages = [_message_of(item, f"{field}[{n}]", number) for n, item in enumerate(given)]
    instructions = body.pop("instructions", None)
    if instructions is None:
        return field, messages
    if not isinstance(instructions, str):
        raise InvalidLine(number, "body.instructions", "must be a string")
    return field, [{"role": "system", "content": instructions}, *messages]


def _message_of(item: object, field: str, number: int) -> dict[str, Any]:
    """A message as chat has it; its parts are named after who wrote them here."""
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        raise InvalidLine(number, field, "must be a message")
    role, content = item.get("role"), item.get("content")
    if role not in get_args(Role):
        raise InvalidLine(number, field, f"role must be {', '.join(get_args(Role))}")
    if isinstance(content, list):
        texts = [_text_of(part) for part in content]
        if None in texts:
            raise InvalidLine(number, field, "may have parts of text only")
        content = [{"type": "text", "text": text} for text in texts]
    elif not isinstance(content, str):
        raise InvalidLine(number, field, "content must be a string or a list of parts")
    return {"role": role, "content": content}


def _text_of(part: object) -> str | None:
    if not isinstance(part, dict) or part.get("type") not in ("input_text", "output_text"):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


class _Ask(NamedTuple):
    """What one line asks for. `field` is where its prompt stands."""

    field: str
    prompt: Prompt
    model: str | None
    options: dict[str, Any]
    metadata: dict[str, str] = {}  # noqa: RUF012  never written to


def _job(number: int, ask: _Ask, common: ForAllLines) -> Job:
    try:
        return Job.create(
            ask.prompt,
            model=common.model if ask.model is None else ask.model,
            upstream=common.upstream,
            priority=common.priority,
            tries=common.tries,
            timeout_s=common.timeout_s,
            metadata=ask.metadata,
            options=ask.options,
        )
    except InvalidJob as error:
        raise InvalidLine(number, _renamed(error.field, ask.field), error.reason) from None


def _renamed(field: str, prompt_field: str) -> str:
    """The name that the line has for a job's field."""
    if field.startswith("prompt"):
        return prompt_field + field.removeprefix("prompt")
    field = field.removeprefix("options.")
    return f"body.{field}" if prompt_field.startswith("body.") else field
