"""When a failed attempt is tried again."""

from __future__ import annotations

import pytest

from darkq_worker.attempts.running import retry_delay_s

BASE_S, MAX_S = 0.5, 30.0
DRAWS = 200


def delays(tries_burnt: int, retry_after_s: float | None = None) -> list[float]:
    return [
        retry_delay_s(tries_burnt, retry_after_s, base_s=BASE_S, max_s=MAX_S) for _ in range(DRAWS)
    ]


@pytest.mark.parametrize("tries_burnt", range(12))
def test_retry_delay_doubles_with_each_try_up_to_the_maximum(tries_burnt: int) -> None:
    ceiling_s = min(MAX_S, BASE_S * 2**tries_burnt)
    assert all(ceiling_s / 2 <= wait_s <= ceiling_s for wait_s in delays(tries_burnt))


@pytest.mark.parametrize("retry_after_s", [None, 7.0])
def test_retry_delays_of_jobs_that_failed_together_differ(retry_after_s: float | None) -> None:
    waits_s = delays(3, retry_after_s)
    assert max(waits_s) - min(waits_s) > BASE_S / 2


def test_retry_delay_is_at_least_retry_after() -> None:
    assert all(7.0 <= wait_s <= 7.0 + BASE_S for wait_s in delays(0, 7.0))


def test_retry_delay_is_bounded_for_any_number_of_tries() -> None:
    assert all(MAX_S / 2 <= wait_s <= MAX_S for wait_s in delays(1_000_000))
