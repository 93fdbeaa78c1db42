"""What an upstream says of a failure inside its stream, where there is no status. No I/O."""

from __future__ import annotations

import re

from darkq_worker.upstreams.base import Overloaded, RateLimited, UpstreamError
from darkq_worker.upstreams.http_failure import quotable

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_RATE_LIMIT = re.compile(r"rate.?limit|too many requests", re.IGNORECASE)
_NO_CAPACITY = re.compile(r"capacity|overload|busy|unavailable", re.IGNORECASE)


def clean(value: object) -> str:
    """Return a string that is valid Unicode; anything else is no text."""
    return _LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else ""


def kind_of(words: str) -> type[UpstreamError]:
    """Return the kind of error that an upstream's words mean."""
    if _RATE_LIMIT.search(words):
        return RateLimited
    return Overloaded if _NO_CAPACITY.search(words) else UpstreamError


def reported_error(
    detail: str,
    prompt: str,
    *,
    kind: type[UpstreamError] | None = None,
    retry_after_s: float | None = None,
) -> UpstreamError:
    """Return the error that an upstream reports, of the kind that its words mean if none is given.

    It quotes them as far as they do not repeat the prompt.
    """
    quote = quotable(detail, prompt)
    message = f"the upstream reports: {quote}" if quote else "the upstream reports an error"
    return (kind or kind_of(detail))(message, status=200, retry_after_s=retry_after_s)
