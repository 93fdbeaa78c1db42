"""`transfer_forget.lua`: jobs that have arrived elsewhere are deleted here."""

# mypy: disable-error-code="misc"

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from support.by_hand import Hand

from .test_transfer_depart import hold_up


async def depart(redis: Redis, hand: Hand) -> JobKeys:
    keys = await hand.enqueue()
    await hold_up(redis)
    assert await scripts.transfer_depart(redis, "interactive", [keys]) == ["departed"]
    await redis.delete("darkq:{0}:control")
    return keys


async def forget(redis: Redis, *jobs: JobKeys, cancels_passed_on: bool = False) -> list[str]:
    return [*await scripts.transfer_forget(
        redis, "interactive", jobs, cancels_passed_on=cancels_passed_on
    )]  # fmt: skip


async def test_nothing_is_left_of_a_job(redis: Redis, hand: Hand) -> None:
    keys = await depart(redis, hand)
    assert await forget(redis, keys) == ["gone"]
    assert await redis.keys() == [PartitionKeys(0).tenant_jobs(None).encode()]


async def test_a_cancelled_job_stays_until_that_has_been_passed_on(
    redis: Redis, hand: Hand
) -> None:
    """Red without the question for `cancel`: the job would run at the target."""
    keys, other = await depart(redis, hand), await depart(redis, hand)
    await redis.hset(keys.state, "cancel", "1")
    assert await forget(redis, keys, other) == ["cancel", "gone"]
    assert await redis.zrange(PartitionKeys(0).moving("interactive"), 0, -1) == [
        keys.arq_id.encode()
    ]
    assert await redis.exists(keys.job)
    assert await forget(redis, keys, cancels_passed_on=True) == ["gone"]
    assert not await redis.exists(keys.job, keys.state, PartitionKeys(0).moving("interactive"))
