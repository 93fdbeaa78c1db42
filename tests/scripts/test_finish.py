"""`finish.lua`: the end of a job, all of it or nothing of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.event import Cursor
from darkq.jobs.cancel import cancel
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq_worker.leases import Claim
from support.by_hand import Ear, Hand, chunk, event_ids, gone, snapshot, started
from support.waiting import wait_until

COMPLETED = ev.Completed(id="1-2", at_ms=1)

Scene = Callable[[Redis], Awaitable[Claim]]


async def test_a_job_of_ours_ends_with_text_result_and_event(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1))
    async with Ear(redis, claim.keys.live) as ear:
        assert await hand.finish(claim, chunk(1, 1), COMPLETED, result=b"\x00\xff") == 1
        heard = [message for _, message in await ear.heard()]
    assert heard == [ev.encode(chunk(1, 1)), ev.encode(COMPLETED)]
    keys = claim.keys
    assert await redis.get(keys.result) == b"\x00\xff"
    assert await event_ids(redis, keys) == ["0-1", "1-0", "1-1", "1-2"]
    left = (keys.result, keys.events, PartitionKeys(0).tenant_jobs(None))
    assert set(await redis.keys()) == {name.encode() for name in left}


async def test_result_and_log_expire_together(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await hand.finish(claim, COMPLETED, ttl_ms=5000)
    result_ms, log_ms = [await redis.pttl(name) for name in (claim.keys.result, claim.keys.events)]
    assert 4000 < result_ms <= 5000
    assert abs(result_ms - log_ms) < 50


async def test_a_bulk_job_leaves_its_own_queue(redis: Redis, hand: Hand) -> None:
    await hand.enqueue(priority="bulk")
    await hand.finish(await hand.claim_one())
    assert await redis.exists(PartitionKeys(0).queue("bulk")) == 0


async def test_a_lease_that_ran_out_unclaimed_is_still_ours_to_finish(redis: Redis) -> None:
    hand = Hand(redis, lease_s=0.3)
    claim = await hand.take()
    await wait_until("the lease to run out", lambda: gone(redis, claim.keys.in_progress))
    assert await hand.finish(claim, COMPLETED) == 1


async def test_a_job_whose_log_has_expired_ends_all_the_same(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await redis.delete(claim.keys.events)
    assert await hand.finish(claim, COMPLETED) == 1
    assert await redis.exists(claim.keys.events) == 0, "a new log would never expire"
    assert await redis.get(claim.keys.result) == b"result"


async def stolen(redis: Redis) -> Claim:
    """Another worker holds the job by now, and has begun."""
    claim = await Hand(redis, "zombie", lease_s=0.3).take()
    heir = Hand(redis, "heir")
    (again,) = await wait_until("the lease to run out", heir.claim)
    await heir.append(again, started(2))
    return claim


async def stolen_in_silence(redis: Redis) -> Claim:
    """Another worker holds the job by now, and has written nothing yet."""
    claim = await Hand(redis, "zombie", lease_s=0.3).take()
    await wait_until("the lease to run out", Hand(redis, "heir").claim)
    return claim


async def stolen_and_lost_again(redis: Redis) -> Claim:
    """Nobody holds the job, but it was claimed since: only the attempt tells."""
    claim = await Hand(redis, "zombie", lease_s=0.3).take()
    heir = Hand(redis, "heir", lease_s=0.3)
    await wait_until("the lease to run out", heir.claim)
    await wait_until("the heir's to run out", lambda: gone(redis, claim.keys.in_progress))
    return claim


async def given_back(redis: Redis) -> Claim:
    hand = Hand(redis)
    claim = await hand.take()
    await hand.release(claim, ev.Cancelled(id="1-1", at_ms=1), delay_ms=60_000)
    return claim


async def finished(redis: Redis) -> Claim:
    """The reply to our first call was lost."""
    hand = Hand(redis)
    claim = await hand.take()
    await hand.finish(claim, COMPLETED, result=b"the good result")
    return claim


async def cancelled(redis: Redis) -> Claim:
    hand = Hand(redis)
    claim = await hand.take()
    await hand.release(claim, delay_ms=60_000)
    await cancel(redis, claim.keys, result_ttl_s=60)
    return claim


async def another_token(redis: Redis) -> Claim:
    claim = await Hand(redis).take()
    return claim._replace(token="hand:2")


async def unknown(redis: Redis) -> Claim:
    return Claim(JobKeys.new(0), 0, 1, "hand:1", 0, 0, False, b"")


SCENES: list[Scene] = [
    stolen, stolen_in_silence, stolen_and_lost_again, given_back, finished, cancelled,
    another_token, unknown,
]  # fmt: skip


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_a_strangers_end_changes_nothing(redis: Redis, hand: Hand, scene: Scene) -> None:
    """Red without the check of holder, attempt and `held` in finish.lua and release.lua."""
    claim = await scene(redis)
    before = await snapshot(redis)
    events: list[ev.AnyEvent] = [chunk(9, 1), ev.Completed(id="9-2", at_ms=1)]
    async with Ear(redis, claim.keys.live) as ear:
        assert await hand.finish(claim, *events, result=b"a zombie's") == 0
        assert await hand.release(claim, *events, delay_ms=0, burns=True) == 0
        assert await ear.heard() == []
    assert await snapshot(redis) == before


async def test_failures_that_are_over_are_dropped_a_thousand_at_a_time(
    redis: Redis, hand: Hand
) -> None:
    """A million of them would keep everybody waiting. Red with ZREMRANGEBYSCORE."""
    await redis.zadd(PartitionKeys(0).failed, {f"old {n}": n for n in range(2500)})
    left: list[int] = []
    for _ in range(3):
        await hand.fail(await hand.take(), Cursor(1, 1))
        left.append(await redis.zcard(PartitionKeys(0).failed))
    assert left == [1501, 502, 3]


COMPLETED_AT_ONCE = ev.Completed(id="1-0", at_ms=1)


async def test_the_second_one_is_told_what_the_first_was(redis: Redis, hand: Hand) -> None:
    """Red without the comparison of the results: a job that was done would count as lost."""
    claim = await hand.take()
    assert await hand.finish(claim, COMPLETED_AT_ONCE) == 1
    log = await redis.xrange(claim.keys.events)
    assert await hand.finish(claim, COMPLETED_AT_ONCE) == 1
    assert await redis.xrange(claim.keys.events) == log


async def test_somebody_elses_result_is_not_taken_for_ones_own(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    assert await hand.finish(claim, COMPLETED_AT_ONCE, result=b"mine") == 1
    assert await hand.finish(claim, COMPLETED_AT_ONCE, result=b"another's") == 0
    assert await redis.get(claim.keys.result) == b"mine"
