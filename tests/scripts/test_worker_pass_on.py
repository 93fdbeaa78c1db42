"""`worker_pass_on.lua`: a worker that cannot take a job wakes another one."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from support.by_hand import WOKEN, Ear, asleep, put


async def test_another_worker_is_woken_as_long_as_there_is_a_job(redis: Redis) -> None:
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        await scripts.worker_pass_on(redis, 0, "stopping")
        assert await ear.heard() == []
        await put(redis, JobKeys.new(0))
        assert await ear.heard() == [(WOKEN, b"jobs")]
        await asleep(redis)
        await scripts.worker_pass_on(redis, 0, "stopping")
        assert await ear.heard() == [(WOKEN, b"jobs")]
    assert await redis.exists(PartitionKeys(0).idle("interactive")) == 0


async def test_it_is_woken_no_more_itself(redis: Redis) -> None:
    """Red without the ZREM in worker_pass_on.lua: the message would come back to it."""
    await put(redis, JobKeys.new(0))
    await asleep(redis, "stopping", free=99)
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        await scripts.worker_pass_on(redis, 0, "stopping")
        assert await ear.heard() == [(WOKEN, b"jobs")]
    assert await redis.exists(PartitionKeys(0).idle("interactive")) == 0
