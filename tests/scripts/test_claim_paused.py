"""`claim.lua` and `enqueue.lua` under an operator's words: paused, and closed."""

# mypy: disable-error-code="misc"

from __future__ import annotations

from redis.asyncio import Redis

from darkq.jobs.cancel import cancel
from darkq.operate.queue_state import Mark, clear_mark, read_queue, set_mark
from darkq.protocol.job import Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import Hand


async def tell(redis: Redis, word: Mark, priority: Priority, partitions: int = 1) -> None:
    await set_mark(redis, word, priority, partitions, by="me", why="a test")


async def test_a_paused_queue_gives_nothing_and_hides_nothing(redis: Redis, hand: Hand) -> None:
    """Red without `to_be_ended` in claim.lua, and when the paused queue uses up the slots."""
    urgent = [await hand.enqueue() for _ in range(3)]
    bulk = await hand.enqueue(priority="bulk")
    await tell(redis, "paused", "interactive")
    claims, due_s = await hand.leases.claim(0, slots=3, bulk_slots=3)
    assert [claim.keys for claim in claims] == [bulk]
    assert due_s is not None
    assert due_s > 29, "the bulk job's lease, and none of the jobs that are held back"
    await clear_mark(redis, "paused", "interactive", 1)
    assert [claim.keys for claim in await hand.claim()] == urgent
    assert not await redis.exists(PartitionKeys(0).control)


async def test_nothing_is_due_where_everything_is_paused(redis: Redis, hand: Hand) -> None:
    await hand.enqueue()
    await tell(redis, "paused", "interactive")
    await tell(redis, "paused", "bulk")
    assert await hand.leases.claim(0, slots=3, bulk_slots=3) == ([], None)


async def test_what_runs_goes_on_and_ends(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await tell(redis, "paused", "interactive")
    assert await hand.leases.renew([claim]) == ([], [])
    assert await hand.finish(claim) == 1


async def test_what_is_given_back_waits(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await tell(redis, "paused", "interactive")
    assert await hand.release(claim, delay_ms=0) == 1
    assert await hand.claim() == []


async def test_a_paused_queue_still_ends_what_has_expired(redis: Redis, hand: Hand) -> None:
    """One per call, and each says that there may be more."""
    first, second, third = [await hand.enqueue() for _ in range(3)]
    await redis.delete(first.job, second.job)
    await redis.zadd(PartitionKeys(0).queue("interactive"), {"no id": 1})
    await tell(redis, "paused", "interactive")
    ended: list[JobKeys] = []
    while True:
        claims, due_s = await hand.leases.claim(0, slots=5, bulk_slots=5)
        ended += [claim.keys for claim in claims if claim.record == b""]
        if due_s is None:
            break
    assert ended == [first, second]
    assert await redis.zscore(PartitionKeys(0).queue("interactive"), third.arq_id)


async def test_a_waiting_job_is_cancelled_at_once(redis: Redis, hand: Hand) -> None:
    keys = await hand.enqueue()
    await tell(redis, "paused", "interactive")
    await cancel(redis, keys, result_ttl_s=60)
    assert await redis.exists(keys.result)


async def test_a_job_to_be_cancelled_is_ended_when_it_stands_first(
    redis: Redis, hand: Hand
) -> None:
    """Its worker has died: somebody must claim it before it is `cancelled`."""
    dead = Hand(redis, "dead")
    claim = await dead.take()
    await redis.delete(claim.keys.in_progress)
    await redis.zadd(PartitionKeys(0).queue("interactive"), {claim.keys.arq_id: 1})
    await cancel(redis, claim.keys, result_ttl_s=60)
    await tell(redis, "paused", "interactive")
    (again,) = await hand.claim()
    assert (again.keys, again.cancelled) == (claim.keys, True)


async def test_a_word_that_stands_in_some_partitions_is_seen_and_completed(redis: Redis) -> None:
    await tell(redis, "paused", "bulk", 2)
    half = await read_queue(redis, "bulk", 3)
    assert half.paused is not None
    assert (half.paused.partitions, half.partitions, half.closed) == (2, 3, None)
    await set_mark(redis, "paused", "bulk", 3, by="you", why="again")
    whole = await read_queue(redis, "bulk", 3)
    assert whole.paused is not None
    assert (whole.paused.partitions, whole.paused.by, whole.paused.why) == (3, "you", "again")
    assert whole.paused.since_ms >= half.paused.since_ms > 0


async def test_a_word_counts_whatever_it_says(redis: Redis, hand: Hand) -> None:
    await hand.enqueue()
    await redis.hset(PartitionKeys(0).control, "paused:interactive", "not JSON")
    assert await hand.claim() == []
    status = await read_queue(redis, "interactive", 1)
    assert status.paused is not None
    assert (status.paused.by, status.paused.since_ms) == ("", 0)
