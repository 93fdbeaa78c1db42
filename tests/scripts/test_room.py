"""`enqueue.lua` keeps the length of a queue within its bound."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.event import Cursor
from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import WOKEN, Ear, Hand, asleep, put, snapshot


def new_jobs(count: int) -> list[JobKeys]:
    return [JobKeys.new(0) for _ in range(count)]


async def test_the_last_place_is_taken_and_not_one_more(redis: Redis) -> None:
    """Red when the bound is asked for once per call and not once per job."""
    jobs = new_jobs(5)
    receipts = await put(redis, *jobs, limit=3)
    assert [receipt.verdict for receipt in receipts] == [b"new"] * 3 + [b"full"] * 2
    assert await redis.zrange(PartitionKeys(0).queue("interactive"), 0, -1) == [
        keys.arq_id.encode() for keys in jobs[:3]
    ]


async def test_of_a_refused_job_nothing_is_stored_and_nobody_is_woken(redis: Redis) -> None:
    await put(redis, *new_jobs(2), limit=2)
    await asleep(redis)
    before = await snapshot(redis)
    async with Ear(redis, WOKEN) as ear:
        (receipt,) = await put(redis, *new_jobs(1), key="k", digest="ab", limit=2)
        assert receipt.verdict == b"full"
        assert await ear.heard() == []
    assert await snapshot(redis) == before


async def test_what_is_known_is_still_known(redis: Redis) -> None:
    (keys,) = new_jobs(1)
    await put(redis, keys, key="k", digest="ab", limit=1)
    for other, digest, verdict in ((keys, "ab", b"duplicate"), (new_jobs(1)[0], "cd", b"conflict")):
        (receipt,) = await put(redis, other, key="k", digest=digest, limit=1)
        assert (receipt.verdict, receipt.arq_id) == (verdict, keys.arq_id)


async def test_each_priority_has_its_own_bound(redis: Redis) -> None:
    await put(redis, *new_jobs(2), limit=2)
    receipts = await put(redis, *new_jobs(1), priority="bulk", limit=2)
    assert receipts[0].verdict == b"new"


async def test_a_running_job_counts_and_a_finished_one_does_not(redis: Redis, hand: Hand) -> None:
    await hand.enqueue()
    claim = await hand.claim_one()
    assert (await put(redis, *new_jobs(1), limit=1))[0].verdict == b"full"
    await hand.complete(claim, "text", Cursor(1, 0))
    assert (await put(redis, *new_jobs(1), limit=1))[0].verdict == b"new"
