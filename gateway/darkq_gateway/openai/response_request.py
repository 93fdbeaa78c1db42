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
from darkq_gateway.openai.request import decode, make_job, take

ASKED = "_openai"
_REPEATED = ("temperature", "top_p", "max_output_tokens")


class _How(msgspec.Struct):
    stream: bool = False
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}


class ResponseRequest(NamedTuple):
    """A job, and how its answer is wanted."""

    job: Job
    stream: bool
    background: bool


def parse(body: bytes, caller: Caller) -> ResponseRequest:
    """Read a request. Raises `ApiError`, which names the parameter."""
    fields = decode(body)
    how = take(fields, _How)
    if how.background and not how.store:
        raise ApiError(400, "invalid_value", "must not be false for a background response", "store")
    repeated = {name: fields.get(name) for name in _REPEATED}
    repeated |= {"background": how.background, "metadata": how.metadata}
    metadata = {ASKED: msgspec.json.encode(repeated).decode()}
    job = make_job(fields, "/v1/responses", caller, metadata=metadata)
    return ResponseRequest(job, how.stream, how.background)


def asked_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a Response repeats of its request; None for a job that is no Response."""
    try:
        return msgspec.json.decode(metadata[ASKED], type=dict[str, Any])
    except (KeyError, msgspec.DecodeError):
        return None
