"""`claim.lua`: a worker runs one suspect at a time, and suspects hold nothing up."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq_worker.leases import Claim, Leases
from support.by_hand import Hand, started

QUEUE = PartitionKeys(0).queue("interactive")
MOST_LOST = 2


@pytest.fixture
def leases(redis: Redis) -> Leases:
    return Leases(redis, "w", lease_s=30, job_ttl_s=60, max_lost_leases=MOST_LOST)


async def claim(leases: Leases, *, slots: int = 100, suspects: int = 1) -> list[Claim]:
    claims, _ = await leases.claim(0, slots=slots, bulk_slots=slots, suspects=suspects)
    return claims


async def lose(redis: Redis, *jobs: JobKeys) -> None:
    """Their worker dies, and their leases run out."""
    await redis.delete(*(keys.in_progress for keys in jobs))
    await due(redis, *jobs)


async def begin(redis: Redis, *claims: Claim) -> None:
    """What has written nothing is hardly to blame for its worker's death."""
    for each in claims:
        await Hand(redis).append(each, started(each.attempt))


async def due(redis: Redis, *jobs: JobKeys) -> None:
    await redis.zadd(QUEUE, {keys.arq_id: 1 for keys in jobs}, xx=True)


async def crash_to_the_last_life(redis: Redis, leases: Leases, *jobs: JobKeys) -> None:
    for _ in range(MOST_LOST):
        claims = await claim(leases)
        assert {each.keys for each in claims} == set(jobs)
        await begin(redis, *claims)
        await lose(redis, *jobs)


async def test_of_many_suspects_a_worker_gets_one_and_another_worker_the_next(
    redis: Redis, hand: Hand, leases: Leases
) -> None:
    jobs = [await hand.enqueue() for _ in range(5)]
    await crash_to_the_last_life(redis, leases, *jobs)
    (first,) = await claim(leases)
    assert first.leases_lost == MOST_LOST
    assert leases.is_suspect(first)
    await due(redis, *(keys for keys in jobs if keys != first.keys))
    assert await claim(leases, suspects=0) == []
    await due(redis, *(keys for keys in jobs if keys != first.keys))
    (second,) = await claim(leases)
    assert second.keys != first.keys


async def test_suspects_do_not_hide_the_jobs_behind_them(
    redis: Redis, hand: Hand, leases: Leases
) -> None:
    jobs = [await hand.enqueue() for _ in range(5)]
    await crash_to_the_last_life(redis, leases, *jobs)
    fresh = await hand.enqueue()
    assert await claim(leases, slots=5, suspects=0) == []
    assert [each.keys for each in await claim(leases, slots=5, suspects=0)] == [fresh]


async def test_a_suspect_that_is_put_off_has_lost_nothing_and_is_due_soon(
    redis: Redis, hand: Hand, leases: Leases
) -> None:
    keys = await hand.enqueue()
    await crash_to_the_last_life(redis, leases, keys)
    claims, due_s = await leases.claim(0, slots=1, bulk_slots=1, suspects=0)
    assert claims == []
    assert due_s is not None
    assert 0.5 < due_s <= 1
    await due(redis, keys)
    (again,) = await claim(leases)
    assert (again.attempt, again.leases_lost) == (MOST_LOST + 1, MOST_LOST)


async def test_what_only_has_to_be_ended_is_no_suspect(
    redis: Redis, hand: Hand, leases: Leases
) -> None:
    """One that has lost too many leases, and one that was cancelled: neither is run."""
    poison, cancelled = await hand.enqueue(), await hand.enqueue()
    await crash_to_the_last_life(redis, leases, poison, cancelled)
    (first,) = await claim(leases)
    await begin(redis, first)
    await lose(redis, first.keys)
    (other,) = {poison, cancelled} - {first.keys}
    await redis.execute_command("HSET", other.state, "cancel", "1")
    await due(redis, other)
    claims = await claim(leases, suspects=0)
    assert {each.keys: each.leases_lost for each in claims} == {
        first.keys: MOST_LOST + 1,
        other: MOST_LOST,
    }


async def test_when_the_first_lost_lease_is_the_end_no_job_is_a_suspect(
    redis: Redis, hand: Hand
) -> None:
    leases = Leases(redis, "w", lease_s=30, job_ttl_s=60, max_lost_leases=0)
    jobs = [await hand.enqueue() for _ in range(3)]
    assert len(await claim(leases, suspects=0)) == len(jobs)
