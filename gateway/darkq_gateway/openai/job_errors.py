"""A job that has failed, as an error of the API."""

from __future__ import annotations

from darkq import OpenAIEndpoint
from darkq.openai.errors import job_error
from darkq_gateway.errors import ApiError

# darkq has tried as often as it may; a client that goes on trying would only pay again.
_NO_MORE = {"x-should-retry": "false"}


def failed(code: str, message: str, endpoint: OpenAIEndpoint) -> ApiError:
    """Return the answer for a job that ended without text."""
    error = job_error(code, message, endpoint)
    return ApiError(error.status, error.code, error.message, error.param, headers=_NO_MORE)
