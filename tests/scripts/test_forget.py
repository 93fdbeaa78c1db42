"""`forget.lua`: a job that has ended is deleted."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.event import Cursor
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from support.by_hand import Hand, snapshot


async def test_nothing_is_left_of_a_failed_job(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await hand.fail(claim, Cursor(1, 0))
    assert await redis.exists(claim.keys.failed, PartitionKeys(0).failed) == 2
    assert await scripts.forget(redis, claim.keys)
    assert await redis.keys() == [PartitionKeys(0).tenant_jobs(None).encode()]


async def test_a_job_that_has_not_ended_stays(redis: Redis, hand: Hand) -> None:
    """Red without the question for the result: a running job would lose its log."""
    running, waiting = (await hand.take()).keys, await hand.enqueue()
    before = await snapshot(redis)
    for keys in (running, waiting, JobKeys.new(0)):
        assert not await scripts.forget(redis, keys)
    assert await snapshot(redis) == before
