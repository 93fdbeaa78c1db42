"""One server that is away, of many: what it has not touches nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeout

from darkq import Settings
from darkq.protocol.keys import JobKeys, LimitKeys, PartitionKeys
from darkq.telemetry import metrics as m
from darkq_worker.attempts.metrics import Counting
from darkq_worker.leases import Claim, Leases
from darkq_worker.limits.call import Limits
from darkq_worker.limits.gate import NotNow, Rule
from darkq_worker.loop.heartbeat import Heartbeat
from darkq_worker.writing.attempt_log import Budget
from support.by_hand import put
from support.waiting import wait_until

MakeSettings = Callable[..., Settings]


class PartlyAway(Redis):
    """A client of a real server that answers no command about keys with one word in them."""

    away = "\0"
    asked = 0

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if any(isinstance(arg, str) and self.away in arg for arg in args):
            self.asked += 1
            await asyncio.sleep(15)  # as a host that is gone without a word
            raise RedisTimeout("no answer")
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


@pytest.fixture
async def partly(settings: Settings) -> AsyncIterator[PartlyAway]:
    redis = PartlyAway.from_url(settings.find_redis_url())
    yield redis
    await redis.aclose()


def claim_of(keys: JobKeys, place_ms: float) -> Claim:
    return Claim(keys, 0, 1, "token", 0, 0, False, b"", place_ms)


@asynccontextmanager
async def beating(redis: Redis, limits: Limits, lease_s: float) -> AsyncIterator[None]:
    heartbeat = Heartbeat(
        Leases(redis, "worker", lease_s=lease_s, job_ttl_s=60),
        limits,
        Counting(redis, "worker", m.Tally(), Budget(1 << 20)),
        [],
        lease_s=lease_s,
        on_failure=lambda _: None,
    )
    task = asyncio.create_task(heartbeat.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_calls_of_an_upstream_are_renewed_while_the_limits_of_another_are_away(
    partly: PartlyAway, redis: Redis, make_settings: MakeSettings
) -> None:
    """Red when one task renews the calls of all upstreams, one after the other."""
    settings = make_settings(worker_lease_s=1)
    rules = {"first": Rule(concurrency=1), "second": Rule(concurrency=1)}
    limits, others = Limits(partly, rules, rules, settings), Limits(redis, rules, rules, settings)
    partly.away = "{first}"
    async with (
        beating(partly, limits, lease_s=1),
        limits.call("second", claim_of(JobKeys.new(0), 1), own_proxy=False),
    ):
        await wait_until("the first to be asked", lambda: partly.asked)
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + 2.5:
            with pytest.raises(NotNow):
                async with others.call("second", claim_of(JobKeys.new(0), 2), own_proxy=False):
                    pytest.fail("a second call was let in while the first goes on")
            await asyncio.sleep(0.1)
    await limits.aclose()
    await others.aclose()


async def test_jobs_of_a_partition_that_is_away_hold_up_no_other(
    partly: PartlyAway, redis: Redis, make_settings: MakeSettings
) -> None:
    """Red when a job that cannot be made due keeps its place before the others, and when what
    cannot be reached takes the answer to another's question with it."""
    rules = {"upstream": Rule(concurrency=1)}
    limits = Limits(partly, rules, rules, make_settings(worker_lease_s=300))
    away = [claim_of(JobKeys.new(0), place_ms=1.0 + n) for n in range(30)]
    here = JobKeys.new(1)
    await put(redis, here)
    async with limits.call("upstream", claim_of(JobKeys.new(1), 0.0), own_proxy=False):
        for each in [*away, claim_of(here, 100.0)]:
            with pytest.raises(NotNow):
                await limits.call("upstream", each, own_proxy=False).__aenter__()
        await redis.zadd(PartitionKeys(1).queue("interactive"), {here.arq_id: 9e12})
        partly.away = "{0}"

    async def is_due() -> bool:
        return bool(await redis.zscore(PartitionKeys(1).queue("interactive"), here.arq_id) == 100.0)

    await wait_until("the job that can be reached to be called", is_due)
    async with limits.call("upstream", claim_of(here, 9e12), own_proxy=False):
        pass  # long before a lease has run out for those who do not come
    late = LimitKeys.of_upstream("upstream").late
    assert await redis.zcard(late) == len(away), "they have their places when they come back"
    await limits.aclose()
