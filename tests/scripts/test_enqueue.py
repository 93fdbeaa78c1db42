"""`enqueue.lua`: stores what is new, once, in order."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq.protocol.job import Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import WOKEN, Ear, Hand, asleep, event_ids, gone, put, snapshot
from support.waiting import wait_until


def new_jobs(count: int) -> list[JobKeys]:
    return [JobKeys.new(0) for _ in range(count)]


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
async def test_a_new_job_is_stored_queued_logged_and_announced(
    redis: Redis, priority: Priority
) -> None:
    keys = JobKeys.new(0)
    await asleep(redis, priority=priority)
    async with Ear(redis, WOKEN) as ear:
        seconds, microseconds = await redis.time()
        before_ms = seconds * 1000 + microseconds // 1000
        (receipt,) = await put(redis, keys, record=b"\x00\xffrecord", priority=priority)
        assert await ear.heard() == [(WOKEN, b"jobs")]
    assert receipt == ("new", keys.arq_id)
    assert await redis.get(keys.job) == b"\x00\xffrecord"
    assert await redis.zcard(PartitionKeys(0).queue(priority)) == 1
    score = await redis.zscore(PartitionKeys(0).queue(priority), keys.arq_id)
    assert 0 <= score - before_ms < 10_000
    assert await event_ids(redis, keys) == ["0-1"]
    assert set(await redis.keys()) == {
        name.encode()
        for name in (
            keys.job,
            keys.events,
            PartitionKeys(0).queue(priority),
            PartitionKeys(0).tenant_jobs(None),
        )
    }


async def test_every_key_of_a_job_has_the_time_to_live(redis: Redis) -> None:
    keys = JobKeys.new(0)
    await put(redis, keys, key="k", digest="ab", ttl_ms=50_000)
    for name in (keys.job, PartitionKeys(0).idempotency("k")):
        assert 40_000 < await redis.pttl(name) <= 50_000, name
    assert 90_000 < await redis.pttl(keys.events) <= 100_000, "it tells of an expired job's end"


async def test_a_worker_is_woken_once_and_only_for_new_jobs(redis: Redis) -> None:
    jobs = new_jobs(20)
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        await put(redis, *jobs)
        assert len(await ear.heard()) == 1
        await asleep(redis)
        assert [receipt.verdict for receipt in await put(redis, *jobs)] == ["duplicate"] * 20
        assert await ear.heard() == []


async def test_the_same_call_again_changes_nothing(redis: Redis) -> None:
    """A producer whose connection broke sends the call again."""
    jobs = new_jobs(3)
    await put(redis, *jobs)
    before = await snapshot(redis)
    receipts = await put(redis, *jobs, record=b"another")
    assert [receipt.verdict for receipt in receipts] == ["duplicate"] * 3
    assert [receipt.arq_id for receipt in receipts] == [keys.arq_id for keys in jobs]
    assert await snapshot(redis) == before


async def test_a_finished_job_is_not_run_again(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await hand.finish(claim)
    before = await snapshot(redis)
    assert (await put(redis, claim.keys))[0].verdict == "duplicate"
    assert await snapshot(redis) == before


async def test_one_call_tells_new_from_duplicate(redis: Redis) -> None:
    old, new = new_jobs(2)
    await put(redis, old)
    receipts = await put(redis, new, old, new)
    assert [receipt.verdict for receipt in receipts] == ["new", "duplicate", "duplicate"]


async def test_the_log_of_an_expired_job_is_not_continued(redis: Redis) -> None:
    keys = JobKeys.new(0)
    await redis.xadd(keys.events, {"e": "old"}, id="7-3")
    await put(redis, keys)
    assert await event_ids(redis, keys) == ["0-1"]


class TestIdempotency:
    async def test_the_same_content_gets_the_first_job(self, redis: Redis) -> None:
        first, second = new_jobs(2)
        await put(redis, first, key="k", digest="ab")
        before = await snapshot(redis)
        assert await put(redis, second, key="k", digest="ab") == [("duplicate", first.arq_id)]
        assert await snapshot(redis) == before

    async def test_other_content_is_a_conflict(self, redis: Redis) -> None:
        first, second = new_jobs(2)
        await put(redis, first, key="k", digest="ab")
        await asleep(redis)
        before = await snapshot(redis)
        async with Ear(redis, WOKEN) as ear:
            assert await put(redis, second, key="k", digest="cd") == [("conflict", first.arq_id)]
            assert await ear.heard() == []
        assert await snapshot(redis) == before

    async def test_within_one_call(self, redis: Redis) -> None:
        first, second = new_jobs(2)
        receipts = await put(redis, first, second, key="k", digest="ab")
        assert receipts == [("new", first.arq_id), ("duplicate", first.arq_id)]
        assert await redis.exists(second.job) == 0

    async def test_a_finished_job_is_still_the_one(self, redis: Redis, hand: Hand) -> None:
        first, second = new_jobs(2)
        await put(redis, first, key="k", digest="ab")
        await hand.finish(await hand.claim_one())
        assert await put(redis, second, key="k", digest="ab") == [("duplicate", first.arq_id)]

    @pytest.mark.parametrize("digest", ["ab", "cd"])
    async def test_a_key_whose_job_is_gone_is_free_again(self, redis: Redis, digest: str) -> None:
        first, second = new_jobs(2)
        await put(redis, first, key="k", digest="ab")
        await redis.pexpire(first.job, 1)
        await wait_until("the job to expire", lambda: gone(redis, first.job))
        assert await put(redis, second, key="k", digest=digest) == [("new", second.arq_id)]
        assert (
            await redis.get(PartitionKeys(0).idempotency("k"))
            == f"{digest} {second.arq_id}".encode()
        )

    async def test_without_a_key_nothing_is_remembered(self, redis: Redis) -> None:
        first, second = new_jobs(2)
        assert await put(redis, first) == [("new", first.arq_id)]
        assert await put(redis, second) == [("new", second.arq_id)]
        assert await redis.keys("darkq:idempotency:*") == []


async def test_first_in_first_out_within_a_call_and_across_calls(redis: Redis, hand: Hand) -> None:
    calls = [new_jobs(count) for count in (500, 1, 1, 200, 1)]
    for jobs in calls:
        await put(redis, *jobs)
    claimed = [claim.keys for claim in await hand.claim(slots=1000)]
    assert claimed == [keys for jobs in calls for keys in jobs]
