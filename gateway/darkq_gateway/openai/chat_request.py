"""The body of `POST /v1/chat/completions`. No I/O."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from darkq import Job
from darkq_gateway.context import Caller
from darkq_gateway.errors import ApiError
from darkq_gateway.openai.request import decode, make_job, take


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


class _How(msgspec.Struct):
    stream: bool = False
    stream_options: _StreamOptions | None = None


class ChatRequest(NamedTuple):
    """A job, and how its answer is wanted."""

    job: Job
    stream: bool
    include_usage: bool


def parse(body: bytes, caller: Caller) -> ChatRequest:
    """Read a request. Raises `ApiError`, which names the parameter."""
    fields = decode(body)
    how = take(fields, _How)
    if how.stream_options and not how.stream:
        raise ApiError(400, "invalid_value", "is for streams only", "stream_options")
    job = make_job(fields, "/v1/chat/completions", caller)
    wanted = how.stream_options
    return ChatRequest(job, how.stream, wanted is not None and wanted.include_usage)
