"""`transfer_give_back.lua`: moving jobs return to their queue."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from support.by_hand import WOKEN, Ear, Hand, asleep, snapshot

from .test_transfer_forget import depart


async def test_a_job_has_its_old_place_and_runs(redis: Redis, hand: Hand) -> None:
    keys = await depart(redis, hand)
    place = await redis.zscore(PartitionKeys(0).moving("interactive"), keys.arq_id)
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        assert await scripts.transfer_give_back(redis, "interactive", [keys]) == 1
        assert await ear.heard() == [(WOKEN, b"jobs")]
    assert await redis.zscore(PartitionKeys(0).queue("interactive"), keys.arq_id) == place
    assert not await redis.exists(PartitionKeys(0).moving("interactive"), keys.state)
    assert (await hand.claim_one()).keys == keys


async def test_a_job_that_is_not_moving_is_not_queued(redis: Redis, hand: Hand) -> None:
    """Red without the question for its place: a running job would be claimed again."""
    running = (await hand.take()).keys
    before = await snapshot(redis)
    jobs = [running, JobKeys.new(0)]
    assert await scripts.transfer_give_back(redis, "interactive", jobs) == 0
    assert await snapshot(redis) == before
