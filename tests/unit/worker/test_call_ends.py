"""What a failed call says of its service."""

from __future__ import annotations

import pytest

from darkq_worker.limits.calls import classify_failure
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
    return classify_failure(error, answered=answered, own_proxy=own_proxy, has_windows=has_windows)


@pytest.mark.parametrize("error", FAILURES)
def test_failure_without_an_answer_counts_against_the_service(error: UpstreamError) -> None:
    assert judge(error) == "failed"


@pytest.mark.parametrize("error", [*FAILURES, Truncated("x")])
def test_failure_after_the_first_text_does_not_count(error: UpstreamError) -> None:
    assert judge(error, answered=True) == "left"


@pytest.mark.parametrize("error", [Truncated("x"), EmptyAnswer("x")])
def test_truncated_or_empty_answer_does_not_count(error: UpstreamError) -> None:
    assert judge(error) == "left"


def test_refusal_by_the_service_shows_that_it_works() -> None:
    assert judge(Rejected("x", status=422)) == "alive"
    assert judge(Rejected("x")) == "left"


def test_429_counts_as_limited_if_its_duration_is_known() -> None:
    assert judge(RateLimited("x"), has_windows=True) == "limited"
    assert judge(RateLimited("x", retry_after_s=0)) == "limited"
    assert judge(RateLimited("x")) == "failed"


@pytest.mark.parametrize("error", [*FAILURES, RateLimited("x", retry_after_s=9)])
def test_failure_over_the_own_proxy_of_a_job_does_not_count(error: UpstreamError) -> None:
    """Else one tenant could keep all others from an upstream. Red without `own_proxy`."""
    assert judge(error, own_proxy=True) == "left"
