"""`change_priority.lua`: waiting jobs of one queue become jobs of the other."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from darkq.redis.scripts import ChangedRecord
from support.by_hand import WOKEN, Ear, Hand, asleep, put, snapshot


async def change(
    redis: Redis, *jobs: JobKeys, known: bytes = b"record", limit: int = 100
) -> list[str]:
    changed = [ChangedRecord(keys, known, b"changed") for keys in jobs]
    return [*await scripts.change_priority(
        redis, "bulk", "interactive", 0, changed, queue_max_jobs=limit
    )]  # fmt: skip


async def test_a_job_keeps_its_place_and_its_time_to_live(redis: Redis) -> None:
    first, second = JobKeys.new(0), JobKeys.new(0)
    await put(redis, first, second, priority="bulk", ttl_ms=5000)
    places = await redis.zrange(PartitionKeys(0).queue("bulk"), 0, -1, withscores=True)
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        assert await change(redis, second, first) == ["moved", "moved"]
        assert await ear.heard() == [(WOKEN, b"jobs")]
    assert (
        await redis.zrange(PartitionKeys(0).queue("interactive"), 0, -1, withscores=True) == places
    )
    assert not await redis.exists(PartitionKeys(0).queue("bulk"))
    assert await redis.get(first.job) == b"changed"
    assert 4000 < await redis.pttl(first.job) <= 5000


async def test_a_job_whose_record_has_changed_stays(redis: Redis) -> None:
    keys = JobKeys.new(0)
    await put(redis, keys, priority="bulk")
    before = await snapshot(redis)
    assert await change(redis, keys, JobKeys.new(0), known=b"another") == ["gone", "gone"]
    assert await snapshot(redis) == before


async def test_a_running_job_and_one_without_room_stay(redis: Redis, hand: Hand) -> None:
    running, waiting = JobKeys.new(0), JobKeys.new(0)
    await put(redis, running, priority="bulk")
    await hand.claim_one()
    await put(redis, waiting, priority="bulk")
    assert await change(redis, running, waiting, limit=0) == ["running", "full"]
    assert await redis.zcard(PartitionKeys(0).queue("bulk")) == 2
