"""The clock of Redis is set while jobs wait and run: leases and turns are times by that clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import Hand
from support.servers import Clock, Server, binaries, clock_library
from support.waiting import wait_until

STEP_S = 40  # more than a lease, less than a job of `Hand` has to live
LEASE_S = 10.0

pytestmark = pytest.mark.skipif(clock_library() is None, reason="libfaketime is not installed")


class Stage:
    """A server whose clock is ours, and two workers that have claimed from it before."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self.redis = redis
        self.clock = clock
        self.one = Hand(redis, "one", lease_s=LEASE_S)
        self.other = Hand(redis, "other", lease_s=LEASE_S)

    async def lost(self, keys: JobKeys) -> int:
        return int(await self.redis.execute_command("HGET", keys.state, "lost") or 0)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    server = Server(binaries()["valkey"], tmp_path)
    clock = Clock(server)
    server.start()
    async with Redis.from_url(server.url) as redis:
        stage = Stage(redis, clock)
        assert await stage.one.claim() == await stage.other.claim() == []
        yield stage
    server.stop()


async def test_clock_set_forward_takes_no_job_from_a_live_worker(stage: Stage) -> None:
    """Red when a claim that is refused is asked again without a respite."""
    claims = [await stage.one.take() for _ in range(3)]
    stage.clock.put(STEP_S)
    for _ in claims:  # each finds one more
        assert await stage.other.claim(slots=1) == []
    assert await stage.one.leases.renew(claims) == ([], [])
    assert [await stage.lost(claim.keys) for claim in claims] == [0, 0, 0]


async def test_clock_set_forward_keeps_no_job_from_a_live_worker(stage: Stage) -> None:
    waiting = await stage.one.enqueue()
    stage.clock.put(STEP_S)
    assert (await stage.other.claim_one()).keys == waiting


async def test_clock_set_back_past_a_lease_keeps_no_job_waiting(stage: Stage) -> None:
    """Red when no claim corrects the queues after the step: the old jobs wait for an hour."""
    await stage.one.claim()  # so that it knows the time
    old = [await stage.one.enqueue(priority=each) for each in ("interactive", "bulk")]
    stage.clock.put(-STEP_S)
    new = await stage.one.enqueue()
    claimed: list[JobKeys] = []

    async def claimed_all() -> bool:  # a worker knows the clock to some milliseconds
        claimed.extend(claim.keys for claim in await stage.one.claim())
        return len(claimed) == len(old) + 1

    await wait_until("the old jobs and the new one", claimed_all)
    assert sorted(claimed) == sorted([*old, new])


async def test_clock_set_back_by_less_than_a_lease_moves_no_job(stage: Stage) -> None:
    """Red when it does: each of many workers would take a part of every lease."""
    claim = await stage.one.take()
    await stage.other.claim()
    stage.clock.put(-5)
    before = await stage.redis.zscore(PartitionKeys(0).queue("interactive"), claim.keys.arq_id)
    for _ in range(3):
        assert await stage.other.claim() == []
    assert (
        await stage.redis.zscore(PartitionKeys(0).queue("interactive"), claim.keys.arq_id) == before
    )


async def test_clock_set_back_and_forward_takes_no_job_from_a_live_worker(
    stage: Stage,
) -> None:
    claim = await stage.one.take()
    for step_s in (-STEP_S, STEP_S, -2 * STEP_S, 2 * STEP_S):
        await stage.other.claim()
        stage.clock.put(step_s)
        for _ in range(3):
            assert await stage.other.claim() == []
        assert await stage.one.leases.renew([claim]) == ([], [])
    assert await stage.lost(claim.keys) == 0
