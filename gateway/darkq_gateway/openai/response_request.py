"""The body of `POST /v1/responses`. No I/O.

What a Response repeats of its request travels with the job, in its metadata under `_openai`: so a
Response is made from its job alone, by any gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from darkq import Job
from darkq_gateway.context import Caller
from darkq_gateway.errors import ApiError
from darkq_gateway.openai.parameters import RESPONSES, refuse_others
from darkq_gateway.openai.request import convert, decode, make_job, message_of

ASKED = "_openai"
_TEXT_PARTS = ("input_text", "output_text", "text")


class _StreamOptions(msgspec.Struct):
    include_obfuscation: bool = False


class _Body(msgspec.Struct):
    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    background: bool = False
    stream: bool = False
    stream_options: _StreamOptions | None = None
    metadata: dict[str, str] = {}
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None


class ResponseRequest(NamedTuple):
    """A job, and how its answer is wanted."""

    job: Job
    stream: bool
    background: bool


def parse(body: bytes, caller: Caller) -> ResponseRequest:
    """Read a request. Raises `ApiError`, which names the parameter."""
    fields = decode(body)
    refuse_others(fields, _Body.__struct_fields__, RESPONSES)
    asked = convert(fields, _Body)
    if asked.background and fields.get("store") is False:
        raise ApiError(400, "invalid_value", "must not be false for a background response", "store")
    repeated = {
        "background": asked.background,
        "metadata": asked.metadata,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "max_output_tokens": asked.max_output_tokens,
    }
    job = make_job(
        "input",
        prompt=_messages(asked),
        model=caller.model_for(asked.model),
        options={
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "max_tokens": asked.max_output_tokens,
        },
        metadata={ASKED: msgspec.json.encode(repeated).decode()},
        tenant=caller.tenant,
    )
    return ResponseRequest(job, asked.stream, asked.background)


def asked_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a Response repeats of its request; None for a job that is no Response."""
    try:
        return msgspec.json.decode(metadata[ASKED], type=dict[str, Any])
    except (KeyError, msgspec.DecodeError):
        return None


def _messages(asked: _Body) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    if asked.instructions:
        said.append({"role": "developer", "content": asked.instructions})
    if isinstance(asked.input, str):
        return [*said, {"role": "user", "content": asked.input}]
    return said + [_message(item, f"input[{n}]") for n, item in enumerate(asked.input)]


def _message(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return an input item as a message. Items of an earlier output may be given back."""
    if item.get("type", "message") != "message":
        raise ApiError(
            400, "unsupported_parameter", "only messages are taken here", f"{place}.type"
        )
    rest = {key: value for key, value in item.items() if key not in ("type", "id", "status")}
    message = message_of(rest, place)
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = [
            _part(part, f"{place}.content[{n}]") for n, part in enumerate(content)
        ]
    return message


def _part(part: Any, place: str) -> dict[str, Any]:
    if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS:
        raise ApiError(400, "unsupported_parameter", "only text is taken here", place)
    return {"type": "text", "text": part.get("text")}
