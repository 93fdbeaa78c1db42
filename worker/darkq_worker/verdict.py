"""What the end of a call says of the service as a whole.

    left     nothing: cancelled, cut off in the middle, too slow for this job, an empty answer
    alive    it works: it answered, be it to refuse this request
    failed   it does not: unreachable, overloaded, silent, or somebody else answers in its place
    limited  it has had enough of us for a while

Only what happens before the first text counts against a service: after it, the fault may lie in
this one answer. A job's own proxy says nothing of the way that all others take.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from darkq_worker.upstreams.base import (
    Overloaded,
    ProtocolViolation,
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
    UpstreamError,
)

Verdict: TypeAlias = Literal["left", "alive", "failed", "limited"]

_FAILURES = (Unreachable, Overloaded, TimedOut, ProtocolViolation)


def verdict(error: UpstreamError, *, answered: bool, own_proxy: bool, has_windows: bool) -> Verdict:
    """Judge how a call failed.

    A 429 that does not say for how long, of a service whose windows are not known, is an
    overload like any other.
    """
    if own_proxy:
        return "left"
    if isinstance(error, RateLimited):
        return "limited" if has_windows or error.retry_after_s is not None else "failed"
    if isinstance(error, Rejected):
        return "left" if error.status is None else "alive"
    return "failed" if isinstance(error, _FAILURES) and not answered else "left"
