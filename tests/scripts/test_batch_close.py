"""`batch_close.lua`: a batch takes no further line."""

# mypy: disable-error-code="misc"

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import BatchKeys
from darkq.redis import scripts
from support.batches_by_hand import add_lines, make_batch
from support.by_hand import Ear, snapshot


async def test_an_input_that_is_complete_has_a_total(redis: Redis) -> None:
    keys = await make_batch(redis)
    await add_lines(redis, keys, 1, 2)
    async with Ear(redis, keys.live) as ear:
        assert await scripts.batch_close(redis, keys, "total", 2) == "closed"
        assert await ear.heard() == [(keys.live, b"total")]
    assert await redis.hget(keys.batch, "total") == b"2"
    assert await add_lines(redis, keys, 2, 3) == ["duplicate", "closed"]


async def test_a_redis_that_has_lost_lines_does_not_close(redis: Redis) -> None:
    """Red without the comparison: the lost lines would never be answered."""
    keys = await make_batch(redis)
    await add_lines(redis, keys, 1)
    before = await snapshot(redis)
    assert await scripts.batch_close(redis, keys, "total", 2) == "too few"
    assert await snapshot(redis) == before


async def test_a_cancelled_batch_takes_no_line_and_drops_those_without_a_job(redis: Redis) -> None:
    keys = await make_batch(redis)
    await add_lines(redis, keys, 1, 2)
    await redis.delete(keys.job(2).job)
    assert await scripts.batch_close(redis, keys, "cancel", 5, lost=[1, 2]) == "closed"
    assert await redis.hmget(keys.batch, ["cancel", "added"]) == [b"5", b"1"]
    assert await redis.zrange(keys.lines, 0, -1) == [b"1"]
    assert await add_lines(redis, keys, 3) == ["cancelled"]


async def test_a_batch_that_is_gone(redis: Redis) -> None:
    assert await scripts.batch_close(redis, BatchKeys.new(0), "cancel", 1) == "gone"
    assert await redis.keys() == []
