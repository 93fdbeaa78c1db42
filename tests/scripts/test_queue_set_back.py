"""`queue_set_back.lua`: the clock of Redis was set back, and no job waits for that time.

A clock that is set back by an hour, and scores and leases that are moved on by an hour, are the
same to a script.
"""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq.protocol.keys import PartitionKeys
from darkq.redis import scripts
from support.by_hand import Hand

HOUR_MS = 3_600_000
LEASE_MS = 30_000
QUEUE = PartitionKeys(0).queue("interactive")


async def step_back(redis: Redis) -> None:
    for member, score in await redis.zrange(QUEUE, 0, -1, withscores=True):
        await redis.zadd(QUEUE, {member: score + HOUR_MS})
        in_progress = f"arq:in-progress:{member.decode()}"
        if (left_ms := await redis.pttl(in_progress)) > 0:
            await redis.pexpire(in_progress, left_ms + HOUR_MS)


async def correct(redis: Redis, most: int = 1000) -> None:
    """Call it until there is nothing left, as a worker does."""
    begin, calls = b"", 0
    while True:
        begin = await scripts.queue_set_back(
            redis,
            QUEUE,
            back_ms=HOUR_MS,
            lease_s=LEASE_MS / 1000,
            begin=begin,
            most_jobs=most,
        )
        calls += 1
        if not begin:
            return
        assert calls < 100


@pytest.mark.parametrize("most", [1, 2, 1000])
async def test_waiting_jobs_are_due_again_in_order(redis: Redis, hand: Hand, most: int) -> None:
    """Red when scores are left alone, and when a page begins after the last score of another."""
    old = [await hand.enqueue() for _ in range(5)]
    await redis.zadd(QUEUE, {old[2].arq_id: await redis.zscore(QUEUE, old[1].arq_id)})
    await step_back(redis)
    new = await hand.enqueue()
    assert [claim.keys for claim in await hand.claim(slots=1)] == [new]
    newer = await hand.enqueue()
    await correct(redis, most)
    claimed = [claim.keys for claim in await hand.claim()]
    assert claimed[0] == old[0]
    assert set(claimed[1:3]) == set(old[1:3])
    assert claimed[3:] == [*old[3:], newer]


async def test_a_delay_has_left_what_it_had_left(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await hand.release(claim, delay_ms=2 * HOUR_MS)
    before = await redis.zscore(QUEUE, claim.keys.arq_id)
    assert before is not None
    await step_back(redis)
    await correct(redis)
    assert await redis.zscore(QUEUE, claim.keys.arq_id) == pytest.approx(before, abs=0.01)


async def test_a_lease_ends_when_it_would_have_ended(redis: Redis, hand: Hand) -> None:
    """Red when the key of the lease is left alone: a dead worker keeps its job for an hour."""
    claim = await hand.take()
    await step_back(redis)
    await correct(redis)
    assert 0 < await redis.pttl(claim.keys.in_progress) <= LEASE_MS


async def test_a_lease_that_was_renewed_since_is_left_alone(redis: Redis, hand: Hand) -> None:
    """Red when every score in the future is moved: claims would look at jobs that run."""
    claim = await hand.take()
    await step_back(redis)
    await hand.leases.renew([claim])
    before = await redis.zscore(QUEUE, claim.keys.arq_id)
    await correct(redis)
    await correct(redis)
    assert await redis.zscore(QUEUE, claim.keys.arq_id) == before
    assert LEASE_MS / 2 < await redis.pttl(claim.keys.in_progress) <= LEASE_MS


async def test_many_running_jobs_of_one_score_do_not_hold_up_the_others(
    redis: Redis, hand: Hand
) -> None:
    """Red when a page of one score comes again: the calls have no end."""
    claims = [await hand.take() for _ in range(4)]
    await step_back(redis)
    await hand.leases.renew(claims)
    waiting = await hand.enqueue()
    await redis.zincrby(QUEUE, HOUR_MS, waiting.arq_id)
    await correct(redis, most=2)
    assert [claim.keys for claim in await hand.claim()] == [waiting]


async def test_what_is_no_job_stops_nothing(redis: Redis, hand: Hand) -> None:
    keys = await hand.enqueue()
    await redis.zadd(QUEUE, {b"foreign": 1, b"\xff": 1})
    await step_back_all(redis)
    await correct(redis)
    assert [claim.keys for claim in await hand.claim()] == [keys]


async def step_back_all(redis: Redis) -> None:
    for member in await redis.zrange(QUEUE, 0, -1):
        await redis.zincrby(QUEUE, HOUR_MS, member)
