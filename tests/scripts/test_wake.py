"""Waking: few workers for each job, whoever has died, and none is forgotten while jobs are left."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import WOKEN, Ear, Hand, asleep, put


def new_jobs(count: int) -> list[JobKeys]:
    return [JobKeys.new(0) for _ in range(count)]


async def woken(ear: Ear) -> list[str]:
    return [channel.rpartition(":")[2] for channel, _ in await ear.heard()]


def ear_of(redis: Redis, *workers: str) -> Ear:
    return Ear(redis, *(PartitionKeys(0).wake_worker(worker) for worker in workers))


async def test_one_job_wakes_one_worker(redis: Redis) -> None:
    """Red when every worker is told."""
    names = [f"w{n}" for n in range(20)]
    await asleep(redis, *names)
    async with ear_of(redis, *names) as ear:
        await put(redis, *new_jobs(1))
        assert len(await woken(ear)) == 1
    assert await redis.zcard(PartitionKeys(0).idle("interactive")) == 19


async def test_many_jobs_wake_two_workers(redis: Redis) -> None:
    names = [f"w{n}" for n in range(20)]
    await asleep(redis, *names)
    async with ear_of(redis, *names) as ear:
        await put(redis, *new_jobs(50))
        assert len(await woken(ear)) == 2


async def test_the_emptiest_worker_is_woken(redis: Redis) -> None:
    await asleep(redis, "full", free=1)
    await asleep(redis, "empty", free=99)
    async with ear_of(redis, "full", "empty") as ear:
        await put(redis, *new_jobs(1))
        assert await woken(ear) == ["empty"]


async def test_a_worker_that_has_died_costs_nothing(redis: Redis) -> None:
    """It does not listen. Red when the answer of PUBLISH is not heeded."""
    await asleep(redis, *(f"dead{n}" for n in range(30)), free=99)
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        await put(redis, *new_jobs(1))
        assert await woken(ear) == ["sleeper"]
    assert await redis.exists(PartitionKeys(0).idle("interactive")) == 0


async def test_who_has_room_for_interactive_jobs_only_is_not_woken_for_bulk(redis: Redis) -> None:
    await asleep(redis, "other", priority="interactive", free=99)
    await asleep(redis, priority="bulk")
    async with ear_of(redis, "sleeper", "other") as ear:
        await put(redis, *new_jobs(1), priority="bulk")
        assert await woken(ear) == ["sleeper"]


async def test_a_claim_notes_the_room_that_is_left(redis: Redis, hand: Hand) -> None:
    """Red when a queue's own slots are not counted, and when a full worker stays noted."""
    await put(redis, *new_jobs(2))
    await hand.claim(slots=4, bulk_slots=1)
    assert await redis.zscore(PartitionKeys(0).idle("interactive"), "hand") == -2
    assert await redis.zscore(PartitionKeys(0).idle("bulk"), "hand") == -1
    await put(redis, *new_jobs(1))
    await hand.claim(slots=1)
    assert (
        await redis.exists(PartitionKeys(0).idle("interactive"), PartitionKeys(0).idle("bulk")) == 0
    )


async def test_a_claim_that_leaves_jobs_wakes_the_next(redis: Redis, hand: Hand) -> None:
    """Red without `pass_on` in claim.lua."""
    await put(redis, *new_jobs(3))
    await asleep(redis, "a", "b", "c")
    async with ear_of(redis, "a", "b", "c") as ear:
        await hand.claim(slots=1)
        assert len(await woken(ear)) == 2
        await hand.claim(slots=2)
        assert await woken(ear) == []


async def test_a_claim_without_room_for_bulk_wakes_one_that_has(redis: Redis, hand: Hand) -> None:
    """It may have been woken for that bulk job. Red when only who takes something wakes others."""
    await put(redis, *new_jobs(1), priority="bulk")
    await asleep(redis, priority="bulk")
    async with Ear(redis, WOKEN) as ear:
        await hand.claim(slots=1, bulk_slots=0)
        assert await woken(ear) == ["sleeper"]


async def test_who_finds_nothing_wakes_nobody(redis: Redis, hand: Hand) -> None:
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        await hand.claim()
        assert await woken(ear) == []
