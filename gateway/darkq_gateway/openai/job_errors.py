"""A job that has failed, as an error of the API."""

from __future__ import annotations

from darkq_gateway.errors import ApiError

_STATUS = {
    "unknown_model": 404,
    "unknown_upstream": 400,
    "rejected": 400,
    "unsupported_option": 400,
    "answer_too_long": 400,
    "rate_limited": 429,
    "cancelled": 409,
    "expired": 504,
    "timeout": 504,
}
_CODES = {"unknown_model": "model_not_found"}

# darkq has tried as often as it may; a client that goes on trying would only pay again.
_NO_MORE = {"x-should-retry": "false"}


def failed(code: str, message: str) -> ApiError:
    """Return the answer for a job that ended without text."""
    param = "model" if code == "unknown_model" else None
    status = _STATUS.get(code, 502)
    return ApiError(status, _CODES.get(code, code), message, param, headers=_NO_MORE)
