"""`renew.lua`: a heartbeat keeps what is ours, and says what is not."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from darkq.jobs.cancel import cancel
from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import Hand, gone, put, snapshot
from support.waiting import wait_until

INTERACTIVE = PartitionKeys(0).queue("interactive")


async def test_a_lease_that_is_ours_is_renewed(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await redis.pexpire(claim.keys.in_progress, 1000)
    await redis.zadd(INTERACTIVE, {claim.keys.arq_id: 1})
    assert await hand.leases.renew([claim]) == ([], [])
    assert 29_000 < await redis.pttl(claim.keys.in_progress) <= 30_000
    assert await hand.claim() == [], "its score is its lease's end again"


async def test_renewed_in_time_a_lease_never_ends(redis: Redis) -> None:
    holder, thief = Hand(redis, "holder", lease_s=0.5), Hand(redis, "thief")
    claim = await holder.take()
    end = asyncio.get_running_loop().time() + 1.1
    while asyncio.get_running_loop().time() < end:
        assert await holder.leases.renew([claim]) == ([], [])
        assert await thief.claim() == []
        await asyncio.sleep(0.02)


async def test_a_lease_that_ran_out_unclaimed_is_taken_up_again(redis: Redis, hand: Hand) -> None:
    """Redis, or we, were away for longer than the lease; nobody else came."""
    holder, other = Hand(redis, "holder", lease_s=0.3), Hand(redis, "holder", lease_s=30)
    claim = await holder.take()
    await wait_until("the lease to run out", lambda: gone(redis, claim.keys.in_progress))
    assert await other.leases.renew([claim]) == ([], [])
    assert await redis.get(claim.keys.in_progress) == claim.token.encode()
    assert await hand.claim() == []


async def test_a_lease_that_another_worker_took_is_lost(redis: Redis, hand: Hand) -> None:
    holder = Hand(redis, "holder", lease_s=0.3)
    claim = await holder.take()
    await wait_until("the lease to run out", hand.claim)
    before = await snapshot(redis)
    assert await holder.leases.renew([claim]) == ([claim], [])
    assert await snapshot(redis) == before
    assert await redis.pttl(claim.keys.in_progress) > 20_000


async def test_an_older_attempt_of_the_same_worker_is_lost(redis: Redis) -> None:
    """Even when the later attempt's lease has run out too: its number is the fence."""
    holder = Hand(redis, "holder", lease_s=0.3)
    claim = await holder.take()
    (again,) = await wait_until("the lease to run out", holder.claim)
    await wait_until("the second lease to run out", lambda: gone(redis, claim.keys.in_progress))
    assert await holder.leases.renew([claim]) == ([claim], [])
    assert await gone(redis, claim.keys.in_progress)
    assert await holder.leases.renew([again]) == ([], [])


async def test_a_job_given_back_is_lost_and_stays_in_its_queue(redis: Redis, hand: Hand) -> None:
    """A heartbeat that crosses the hand-back must not hold the job again."""
    claim = await hand.take()
    await hand.release(claim)
    before = await snapshot(redis)
    assert await hand.leases.renew([claim]) == ([claim], [])
    assert await snapshot(redis) == before


async def test_a_finished_job_is_lost_and_nothing_of_it_comes_back(
    redis: Redis, hand: Hand
) -> None:
    claim = await hand.take()
    await hand.finish(claim)
    before = await snapshot(redis)
    assert await hand.leases.renew([claim]) == ([claim], [])
    assert await snapshot(redis) == before


async def test_one_call_tells_each_job_its_own(redis: Redis, hand: Hand) -> None:
    claims = [await hand.take() for _ in range(4)]
    kept, cancelled, given_back, done = claims
    await cancel(redis, cancelled.keys, result_ttl_s=60)
    await hand.release(given_back, delay_ms=60_000)
    await hand.finish(done)
    renewal = await hand.leases.renew(claims)
    assert renewal.lost == [given_back, done]
    assert renewal.cancel == [cancelled]
    assert await redis.pttl(kept.keys.in_progress) > 29_000


async def test_the_word_to_cancel_is_told_at_every_beat(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await cancel(redis, claim.keys, result_ttl_s=60)
    for _ in range(2):
        assert await hand.leases.renew([claim]) == ([], [claim])


async def test_many_jobs_of_several_partitions_in_few_calls(redis: Redis, hand: Hand) -> None:
    jobs = {p: [JobKeys.new(p) for _ in range(300)] for p in (0, 1)}
    for partition in jobs.values():
        await put(redis, *partition)
    # More than one call's worth in partition 0.
    await put(redis, *[JobKeys.new(0) for _ in range(300)])
    claims = []
    for partition_number in jobs:
        claims += (await hand.leases.claim(partition_number, slots=600, bulk_slots=0))[0]
    assert len(claims) == 900
    stolen = [claims[550], claims[899]]
    for claim in stolen:
        await hand.redis.set(claim.keys.in_progress, "somebody:1", px=30_000)
    assert (await hand.leases.renew(claims)).lost == stolen
