"""`release.lua`: back into the queue, now, in its old place, or later."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq import event as ev
from darkq.jobs.cancel import cancel
from darkq.protocol.keys import PartitionKeys
from support.by_hand import WOKEN, Ear, Hand, asleep, chunk, event_ids, started
from support.waiting import wait_until

INTERACTIVE = PartitionKeys(0).queue("interactive")
RETRYING = ev.Retrying(id="1-2", attempt=1, reason="overloaded", retry_in_s=5, at_ms=1)


async def test_a_released_job_is_nobodys_and_says_so(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1))
    await asleep(redis)
    async with Ear(redis, claim.keys.live, WOKEN) as ear:
        assert await hand.release(claim, chunk(1, 1), RETRYING, delay_ms=0) == 1
        assert await ear.heard() == [
            (claim.keys.live, ev.encode(chunk(1, 1))),
            (claim.keys.live, ev.encode(RETRYING)),
            (WOKEN, b"jobs"),
        ]
    assert await event_ids(redis, claim.keys) == ["0-1", "1-0", "1-1", "1-2"]
    assert await redis.exists(claim.keys.in_progress) == 0
    assert await redis.get(claim.keys.retry) == b"1"
    assert await redis.exists(claim.keys.job) == 1


async def test_a_delay_is_counted_from_now(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    seconds, microseconds = await redis.time()
    await hand.release(claim, RETRYING, delay_ms=5000)
    score = await redis.zscore(INTERACTIVE, claim.keys.arq_id)
    assert 0 <= score - (seconds * 1000 + microseconds / 1000) - 5000 < 1000
    assert await hand.claim() == []


async def test_a_delayed_job_is_claimable_afterwards(hand: Hand) -> None:
    claim = await hand.take()
    await hand.release(claim, RETRYING, delay_ms=60, burns=True)
    assert await hand.claim() == []
    (again,) = await wait_until("the delay to pass", hand.claim)
    assert (again.attempt, again.tries_burnt, again.leases_lost) == (2, 1, 0)


async def test_a_job_handed_on_goes_before_those_that_came_later(redis: Redis, hand: Hand) -> None:
    seconds, microseconds = await redis.time()
    claim = await hand.take()
    others = [await hand.enqueue() for _ in range(3)]
    await hand.release(claim, place_ms=seconds * 1000 + microseconds // 1000 - 1)
    claims = await hand.claim()
    assert [again.keys for again in claims] == [claim.keys, *others]
    assert claims[0].tries_burnt == 0


async def test_tries_add_up(hand: Hand) -> None:
    claim = await hand.take()
    for burnt in range(3):
        assert claim.tries_burnt == burnt
        await hand.release(claim, delay_ms=0, burns=True)
        claim = await hand.claim_one()


async def test_the_word_to_cancel_outlives_a_release(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await cancel(redis, claim.keys, result_ttl_s=60)
    await hand.release(claim)
    assert (await hand.claim_one()).cancelled


async def test_a_job_that_is_to_be_cancelled_does_not_wait_for_its_next_try(
    redis: Redis, hand: Hand
) -> None:
    """The word came when the attempt had failed already. Red when the delay is kept."""
    claim = await hand.take()
    await cancel(redis, claim.keys, result_ttl_s=60)
    await hand.release(claim, RETRYING, delay_ms=60_000, burns=True)
    assert (await hand.claim_one()).cancelled


async def test_a_queue_member_that_is_gone_is_not_made_anew(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await redis.zrem(INTERACTIVE, claim.keys.arq_id)
    await hand.release(claim, delay_ms=0)
    assert await redis.exists(INTERACTIVE) == 0


async def test_a_job_handed_on_is_due_although_the_clock_was_set_back_since(
    redis: Redis, hand: Hand
) -> None:
    """Red when its place is its score in any case: it waits until the clock comes there again."""
    seconds, _ = await redis.time()
    claim = await hand.take()
    await hand.append(claim, started(1))
    await hand.release(claim, chunk(1, 1), RETRYING, place_ms=(seconds + 3600) * 1000)
    assert [again.keys for again in await hand.claim()] == [claim.keys]


async def test_a_job_that_is_put_off_to_a_turn_waits_for_it(redis: Redis, hand: Hand) -> None:
    """Red when a place in the future is never believed."""
    seconds, _ = await redis.time()
    claim = await hand.take()
    await hand.release(claim, place_ms=(seconds + 3600) * 1000)
    assert await hand.claim() == []
