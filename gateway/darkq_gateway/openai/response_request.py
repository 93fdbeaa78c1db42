"""The body of `POST /v1/responses`. No I/O.

What a Response repeats of its request travels with the job, in its metadata under `_openai`: so a
Response is made from its job alone, by any gateway. Clients cannot write that name
(`RESERVED_METADATA`), and a value that is not of the shape below is no Response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from darkq import RESERVED_METADATA, InvalidJob, Job, checked_metadata
from darkq_gateway.context import Caller
from darkq_gateway.errors import ApiError
from darkq_gateway.openai.request import make_job, take

MAX_LABEL_CHARS = 512
_Label = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_CHARS)] | None


class _Labels(msgspec.Struct, omit_defaults=True):
    """Change nothing about the answer, and are repeated in the Response."""

    parallel_tool_calls: bool = True
    prompt_cache_key: _Label = None
    safety_identifier: _Label = None
    user: _Label = None


class _How(msgspec.Struct):
    stream: bool = False
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}


class _Repeated(_Labels):
    """What a Response repeats of its request, and nothing else.

    Its instructions are part of the prompt, which is not kept with the answer.
    """

    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_output_tokens: int | None = None
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}


_OPTIONS = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
    "max_output_tokens",
)


class ResponseRequest(NamedTuple):
    """A job, and how its answer is wanted."""

    job: Job
    stream: bool
    background: bool


def parse(fields: dict[str, Any], caller: Caller) -> ResponseRequest:
    """Read a request's body. Raises `ApiError`, which names the parameter."""
    how, labels = take(fields, _How), take(fields, _Labels)
    if how.background and not how.store:
        raise ApiError(400, "invalid_value", "must not be false for a background response", "store")
    options = {name: fields[name] for name in _OPTIONS if name in fields}
    job = make_job(fields, "/v1/responses", caller, metadata={})
    repeated = _Repeated(
        **msgspec.structs.asdict(labels),
        **options,
        background=how.background,
        store=how.store,
        metadata=how.metadata,
    )
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
    fields = msgspec.structs.asdict(repeated)
    return {name: value for name, value in fields.items() if value is not None}
