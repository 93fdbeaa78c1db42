"""What a failed call says of its service."""

from __future__ import annotations

import pytest

from darkq_worker.limits.call import verdict
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    Overloaded,
    ProtocolViolation,
    RateLimited,
    Rejected,
    TimedOut,
    Truncated,
    Unreachable,
    UpstreamError,
)

FAILURES = [Unreachable("x"), Overloaded("x"), TimedOut("x"), ProtocolViolation("x")]


def judge(
    error: UpstreamError,
    *,
    answered: bool = False,
    own_proxy: bool = False,
    has_windows: bool = False,
) -> str:
    return verdict(error, answered=answered, own_proxy=own_proxy, has_windows=has_windows)


@pytest.mark.parametrize("error", FAILURES)
def test_no_answer_at_all_counts_against_it(error: UpstreamError) -> None:
    assert judge(error) == "failed"


@pytest.mark.parametrize("error", [*FAILURES, Truncated("x")])
def test_what_breaks_off_later_does_not(error: UpstreamError) -> None:
    assert judge(error, answered=True) == "left"


@pytest.mark.parametrize("error", [Truncated("x"), EmptyAnswer("x")])
def test_nor_does_what_may_lie_in_this_answer(error: UpstreamError) -> None:
    assert judge(error) == "left"


def test_a_refusal_is_an_answer_unless_it_is_our_own() -> None:
    assert judge(Rejected("x", status=422)) == "alive"
    assert judge(Rejected("x")) == "left"


def test_a_429_says_for_how_long_or_the_windows_do() -> None:
    assert judge(RateLimited("x"), has_windows=True) == "limited"
    assert judge(RateLimited("x", retry_after_s=0)) == "limited"
    assert judge(RateLimited("x")) == "failed"


@pytest.mark.parametrize("error", [*FAILURES, RateLimited("x", retry_after_s=9)])
def test_a_jobs_own_proxy_says_nothing_of_the_way_of_others(error: UpstreamError) -> None:
    """Else one tenant could keep all others from an upstream. Red without `own_proxy`."""
    assert judge(error, own_proxy=True) == "left"
