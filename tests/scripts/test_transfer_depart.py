"""`transfer_depart.lua`: jobs leave a queue that is paused and closed."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq.operate.queue_state import set_mark
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from support.by_hand import Hand, snapshot

QUEUE, MOVING = PartitionKeys(0).queue("interactive"), PartitionKeys(0).moving("interactive")


async def hold_up(redis: Redis) -> None:
    """Pause the queue and close it."""
    await set_mark(redis, "paused", "interactive", 1, by="me", why="a test")
    await set_mark(redis, "closed", "interactive", 1, by="me", why="a test")


async def test_a_job_leaves_with_its_place_and_no_worker_gets_it(redis: Redis, hand: Hand) -> None:
    keys = await hand.enqueue()
    place = await redis.zscore(QUEUE, keys.arq_id)
    await hold_up(redis)
    assert await scripts.transfer_depart(redis, "interactive", [keys]) == ["departed"]
    assert await redis.zscore(MOVING, keys.arq_id) == place
    assert await redis.hget(keys.state, "moving") == b"1"
    assert not await redis.exists(QUEUE)
    assert await hand.claim() == []


async def test_some_jobs_stay(redis: Redis, hand: Hand) -> None:
    running, lapsed = await hand.take(), await hand.take()
    await redis.delete(lapsed.keys.in_progress)
    expired, line = await hand.enqueue(), await hand.enqueue()
    await redis.delete(expired.job)
    await redis.hset(line.state, "batch", "{0}b 1")
    await redis.pexpire(line.state, 60_000)
    await hold_up(redis)
    jobs = [running.keys, lapsed.keys, expired, line, JobKeys.new(0)]
    before = await snapshot(redis)
    outcomes = await scripts.transfer_depart(redis, "interactive", jobs)
    assert outcomes == ["running", "running", "expired", "line", "gone"]
    assert await snapshot(redis) == before


@pytest.mark.parametrize("words", [[], ["paused"], ["closed"]])
async def test_nothing_leaves_a_queue_that_is_open_or_runs(
    redis: Redis, hand: Hand, words: list[str]
) -> None:
    keys = await hand.enqueue()
    if "paused" in words:
        await set_mark(redis, "paused", "interactive", 1, by="me", why="a test")
    if "closed" in words:
        await set_mark(redis, "closed", "interactive", 1, by="me", why="a test")
    assert await scripts.transfer_depart(redis, "interactive", [keys]) == []
    assert await redis.zcard(QUEUE) == 1
