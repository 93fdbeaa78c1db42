"""The body of `POST /v1/responses`. No I/O.

What a Response repeats of its request travels with the job, in its metadata under `_openai`: so a
Response is made from its job alone, by any gateway. Clients cannot write that name
(`RESERVED_METADATA`), and a value that is not of the shape below is no Response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from darkq import RESERVED_METADATA, InvalidJob, Job, checked_metadata
from darkq_gateway.context import Caller
from darkq_gateway.errors import ApiError
from darkq_gateway.openai.request import decode, make_job, take

_REPEATED = ("temperature", "top_p", "max_output_tokens")


class _How(msgspec.Struct):
    stream: bool = False
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}


class _Repeated(msgspec.Struct):
    """What a Response repeats of its request, and nothing else."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    background: bool = False
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
    job = make_job(fields, "/v1/responses", caller, metadata={})
    try:
        checked_metadata(how.metadata)
        job = job.with_metadata(**{RESERVED_METADATA: msgspec.json.encode(repeated).decode()})
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    return ResponseRequest(job, how.stream, how.background)


def asked_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a Response repeats of its request; None for a job that is no Response."""
    try:
        repeated = msgspec.json.decode(metadata[RESERVED_METADATA], type=_Repeated)
    except (KeyError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return msgspec.structs.asdict(repeated)
