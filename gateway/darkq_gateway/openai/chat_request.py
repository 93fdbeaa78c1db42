"""The body of `POST /v1/chat/completions`. No I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from darkq import Job
from darkq_gateway.context import Caller
from darkq_gateway.errors import ApiError
from darkq_gateway.openai.parameters import CHAT, refuse_others
from darkq_gateway.openai.request import convert, decode, make_job, message_of


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Body(msgspec.Struct):
    model: str
    messages: list[dict[str, Any]]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    metadata: dict[str, str] = {}
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


class ChatRequest(NamedTuple):
    """A job, and how its answer is wanted."""

    job: Job
    stream: bool
    include_usage: bool


def parse(body: bytes, caller: Caller) -> ChatRequest:
    """Read a request. Raises `ApiError`, which names the parameter."""
    fields = decode(body)
    refuse_others(fields, _Body.__struct_fields__, CHAT)
    asked = convert(fields, _Body)
    if asked.stream_options and not asked.stream:
        raise ApiError(400, "invalid_value", "is for streams only", "stream_options")
    if asked.max_tokens and asked.max_completion_tokens:
        raise ApiError(400, "invalid_value", "is given beside max_tokens", "max_completion_tokens")
    job = make_job(
        "messages",
        prompt=[message_of(m, f"messages[{n}]") for n, m in enumerate(asked.messages)],
        model=caller.model_for(asked.model),
        options={
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "max_tokens": asked.max_completion_tokens or asked.max_tokens,
            "presence_penalty": asked.presence_penalty,
            "frequency_penalty": asked.frequency_penalty,
            "seed": asked.seed,
            "stop": asked.stop,
        },
        metadata=asked.metadata,
        tenant=caller.tenant,
    )
    wanted = asked.stream_options
    return ChatRequest(job, asked.stream, wanted is not None and wanted.include_usage)
