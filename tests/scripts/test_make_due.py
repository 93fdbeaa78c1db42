"""`make_due.lua`: a job that was put off may go earlier."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from support.by_hand import WOKEN, Ear, Hand, asleep, snapshot

QUEUE = PartitionKeys(0).queue("interactive")


def turn(keys: JobKeys, place: float = 1, number: int = 0) -> scripts.Turn:
    return scripts.Turn(keys.arq_id.encode(), number, place)


async def put_off(hand: Hand) -> JobKeys:
    claim = await hand.take()
    await hand.release(claim, delay_ms=60_000)
    return claim.keys


async def test_a_job_that_was_put_off_is_due_and_a_worker_is_woken(
    redis: Redis, hand: Hand
) -> None:
    keys = await put_off(hand)
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        assert await scripts.make_due(redis, 0, [turn(keys)]) == []
        assert await ear.heard() == [(WOKEN, b"jobs")]
    assert (await hand.claim_one()).keys == keys


async def test_a_later_place_changes_nothing(redis: Redis, hand: Hand) -> None:
    """Red without LT: a job would be put off again."""
    keys = await hand.enqueue()
    before = await snapshot(redis)
    assert await scripts.make_due(redis, 0, [turn(keys, 9_000_000_000_000)]) == []
    assert await snapshot(redis) == before


async def test_a_job_that_is_in_no_queue_is_returned_and_not_added(
    redis: Redis, hand: Hand
) -> None:
    """Red without XX: a job that has ended would be claimed again."""
    gone, waiting = JobKeys.new(0), await put_off(hand)
    turns = [turn(gone), turn(waiting), turn(waiting, number=1)]
    ids = [each.arq_id for each in turns]
    assert await scripts.make_due(redis, 0, turns) == [ids[0], ids[2]]
    assert await redis.zrange(QUEUE, 0, -1) == [ids[1]]
    assert not await redis.exists(PartitionKeys(0).queue("bulk"))


async def test_a_running_job_keeps_its_lease(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    assert await scripts.make_due(redis, 0, [turn(claim.keys)]) == []
    assert await hand.claim() == []
    assert await redis.get(claim.keys.in_progress) == claim.token.encode()
