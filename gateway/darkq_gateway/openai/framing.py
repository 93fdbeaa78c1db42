"""Objects as the events of a stream. An event without its blank line would be lost.

A job that has failed, as an error of the API.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from darkq.openai.body import Endpoint as OpenAIEndpoint
from darkq.openai.errors import build_job_error
from darkq_gateway.http.errors import ApiError

DONE = b"data: [DONE]\n\n"


def unnamed(objects: Iterable[dict[str, Any]]) -> bytes:
    """Chat's events have no name."""
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(each) for each in objects)


def named(objects: Iterable[dict[str, Any]]) -> bytes:
    """The events of a Response have the name of their type."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (each["type"].encode(), msgspec.json.encode(each))
        for each in objects
    )


# darkq has tried as often as it may; a client that goes on trying would only pay again.
_NO_MORE = {"x-should-retry": "false"}


def failed(code: str, message: str, endpoint: OpenAIEndpoint) -> ApiError:
    """Return the answer for a job that ended without text."""
    error = build_job_error(code, message, endpoint)
    return ApiError(error.status, error.code, error.message, error.param, headers=_NO_MORE)
