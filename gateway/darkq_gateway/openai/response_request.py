"""The body of `POST /v1/responses`. No I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from darkq import InvalidJob, Job, checked_metadata
from darkq.openai.response import Repeated, repeated_of
from darkq_gateway.context import Caller
from darkq_gateway.errors import ApiError
from darkq_gateway.openai.request import make_job, take


class _How(msgspec.Struct):
    stream: bool = False
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}


class ResponseRequest(NamedTuple):
    """A job, how its answer is wanted, and what that repeats of the request."""

    job: Job
    stream: bool
    background: bool
    repeated: Repeated


def parse(fields: dict[str, Any], caller: Caller) -> ResponseRequest:
    """Read a request's body. Raises `ApiError`, which names the parameter."""
    try:
        repeated = repeated_of(fields)
        how = take(fields, _How)
        if how.background and not how.store:
            raise InvalidJob("store", "must not be false for a background response")
        job = make_job(fields, "/v1/responses", caller, metadata={})
        checked_metadata(how.metadata)
        job = repeated.beside(job)
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    return ResponseRequest(job, how.stream, how.background, repeated)
