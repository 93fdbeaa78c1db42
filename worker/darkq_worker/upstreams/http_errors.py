"""Maps refusals to errors: whether a retry can help, and when. No I/O.

402, 407, 422 and other 4xx     Rejected            the same request would fail again
403, 404 … as an HTML page      ProtocolViolation   a proxy answered instead
408, 5xx                        Overloaded
429                             RateLimited
any other status below 400      ProtocolViolation   redirects are not followed

Inside a stream there is no status: there the text of an error decides.
"""

from __future__ import annotations

import math
import re
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from darkq_worker.upstreams.base import (
    Overloaded,
    ProtocolViolation,
    RateLimited,
    Rejected,
    UpstreamError,
)

MAX_RETRY_AFTER_S = 6 * 3600.0  # DarkAI's longest window; a wrong clock delays a job no longer
MAX_DETAIL_CHARS = 200
_ECHO_CHARS = 16


def http_error(
    status: int, *, is_html: bool, detail: str = "", retry_after_s: float | None = None
) -> UpstreamError:
    """Return the error for a status other than 200."""
    return _error_class(status, is_html)(
        _message(status, is_html, detail), status=status, retry_after_s=retry_after_s
    )


def _error_class(status: int, is_html: bool) -> type[UpstreamError]:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited
    if status == HTTPStatus.REQUEST_TIMEOUT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Overloaded
    if status < HTTPStatus.BAD_REQUEST:
        return ProtocolViolation
    if is_html and status not in (HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.UNPROCESSABLE_ENTITY):
        return ProtocolViolation
    return Rejected


def _message(status: int, is_html: bool, detail: str) -> str:
    try:
        reason = f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:  # 520 and its like are Cloudflare's own
        reason = f"HTTP {status}"
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        reason += ", a redirect, which is not followed"
    if is_html:
        reason += ", with an HTML page"
    return f"{reason}: {detail}" if detail else reason


def quotable(detail: str, prompt: str) -> str:
    """Return an upstream's message, short and printable, unless it quotes the prompt.

    Services may echo a refused input, and the message is logged.
    """
    detail = detail[: MAX_DETAIL_CHARS * 2]
    windows = (detail[i : i + _ECHO_CHARS] for i in range(0, len(detail), _ECHO_CHARS))
    if (len(prompt) > 3 and prompt in detail) or any(
        len(window) == _ECHO_CHARS and window in prompt for window in windows
    ):
        return "(its words repeat the prompt and are left out)"
    words = "".join(char if char.isprintable() else " " for char in detail).split()
    return " ".join(words)[:MAX_DETAIL_CHARS]


def parse_retry_after(header: str | None, *, unit_s: float = 1.0) -> float | None:
    """Return the delay of a `Retry-After` header in seconds, bounded, or None.

    It is a number of units or an HTTP date (RFC 9110, § 10.2.3); anything else is ignored.
    """
    if header is None:
        return None
    try:
        wait_s = float(header) * unit_s
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    if math.isnan(wait_s):
        return None
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS: tuple[tuple[type[UpstreamError], re.Pattern[str]], ...] = (
    (RateLimited, re.compile(r"rate.?limit|too many requests|throttl", re.IGNORECASE)),
    (
        Rejected,  # the prompt is too long, and always will be
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
    """Return a string as valid Unicode; an empty one for any other value."""
    return _LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else ""


def find_kind(words: str) -> type[UpstreamError]:
    """Return the class of error that a message means."""
    return next((kind for kind, pattern in _KINDS if pattern.search(words)), UpstreamError)


def reported_error(
    detail: str,
    prompt: str,
    *,
    kind: type[UpstreamError] | None = None,
    retry_after_s: float | None = None,
) -> UpstreamError:
    """Return the error that an upstream reports; by default of the class that `detail` means.

    Its message quotes `detail`, unless that quotes the prompt.
    """
    quote = quotable(detail, prompt)
    message = f"the upstream reports: {quote}" if quote else "the upstream reports an error"
    return (kind or find_kind(detail))(message, status=200, retry_after_s=retry_after_s)
