"""What an upstream says of a failure inside its stream, where there is no status. No I/O."""

from __future__ import annotations

import re

from darkq_worker.upstreams.base import Overloaded, RateLimited, Rejected, UpstreamError
from darkq_worker.upstreams.http_failure import quotable

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS: tuple[tuple[type[UpstreamError], re.Pattern[str]], ...] = (
    (RateLimited, re.compile(r"rate.?limit|too many requests|throttl", re.IGNORECASE)),
    (
        Rejected,  # the prompt is too long, and will be so next time
        re.compile(
            r"context.?(length|size|window|limit)|prompt is too long|input is too long|"
            r"(prompt|input|request).{0,40}(exceeds|longer than).{0,40}(context|token)|"
            r"too many (input )?tokens",
            re.IGNORECASE,
        ),
    ),
    (Overloaded, re.compile(r"capacity|overload|busy|unavailable", re.IGNORECASE)),
)


def clean(value: object) -> str:
    """Return a string that is valid Unicode; anything else is no text."""
    return _LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else ""


def kind_of(words: str) -> type[UpstreamError]:
    """Return the kind of error that an upstream's words mean."""
    return next((kind for kind, pattern in _KINDS if pattern.search(words)), UpstreamError)


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
