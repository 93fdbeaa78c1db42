"""`enqueue.lua` keeps the length of a queue within its bound."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.event import Cursor
from darkq.operate.queue_state import clear_mark, set_mark
from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import WOKEN, Ear, Hand, asleep, put, snapshot


def new_jobs(count: int) -> list[JobKeys]:
    return [JobKeys.new(0) for _ in range(count)]


async def test_the_last_place_is_taken_and_not_one_more(redis: Redis) -> None:
    """Red when the bound is asked for once per call and not once per job."""
    jobs = new_jobs(5)
    receipts = await put(redis, *jobs, limit=3)
    assert [receipt.verdict for receipt in receipts] == ["new"] * 3 + ["full"] * 2
    assert await redis.zrange(PartitionKeys(0).queue("interactive"), 0, -1) == [
        keys.arq_id.encode() for keys in jobs[:3]
    ]


async def test_of_a_refused_job_nothing_is_stored_and_nobody_is_woken(redis: Redis) -> None:
    await put(redis, *new_jobs(2), limit=2)
    await asleep(redis)
    before = await snapshot(redis)
    async with Ear(redis, WOKEN) as ear:
        (receipt,) = await put(redis, *new_jobs(1), key="k", digest="ab", limit=2)
        assert receipt.verdict == "full"
        assert await ear.heard() == []
    assert await snapshot(redis) == before


async def test_what_is_known_is_still_known(redis: Redis) -> None:
    (keys,) = new_jobs(1)
    await put(redis, keys, key="k", digest="ab", limit=1)
    for other, digest, verdict in ((keys, "ab", "duplicate"), (new_jobs(1)[0], "cd", "conflict")):
        (receipt,) = await put(redis, other, key="k", digest=digest, limit=1)
        assert (receipt.verdict, receipt.arq_id) == (verdict, keys.arq_id)


async def test_each_priority_has_its_own_bound(redis: Redis) -> None:
    await put(redis, *new_jobs(2), limit=2)
    receipts = await put(redis, *new_jobs(1), priority="bulk", limit=2)
    assert receipts[0].verdict == "new"


async def test_a_running_job_counts_and_a_finished_one_does_not(redis: Redis, hand: Hand) -> None:
    await hand.enqueue()
    claim = await hand.claim_one()
    assert (await put(redis, *new_jobs(1), limit=1))[0].verdict == "full"
    await hand.complete(claim, "text", Cursor(1, 0))
    assert (await put(redis, *new_jobs(1), limit=1))[0].verdict == "new"


async def test_a_closed_queue_takes_no_new_job_but_knows_old_ones(redis: Redis) -> None:
    first, again, new, other = [JobKeys.new(0) for _ in range(4)]
    await put(redis, first, key="k", digest="aa")
    await set_mark(redis, "closed", "interactive", 1, by="me", why="a test")
    ((verdict, known),) = await put(redis, again, key="k", digest="aa")
    assert (verdict, known) == ("duplicate", first.arq_id)
    assert [receipt.verdict for receipt in await put(redis, first, new)] == [
        "duplicate",
        "closed",
    ]
    assert not await redis.exists(new.job, new.events)
    assert (await put(redis, other, priority="bulk"))[0].verdict == "new"
    await clear_mark(redis, "closed", "interactive", 1)
    assert (await put(redis, new))[0].verdict == "new"
