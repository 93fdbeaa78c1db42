"""`transfer_arrive.lua`: a job comes from another Redis, once."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from darkq import event as ev
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from support.by_hand import WOKEN, Ear, Hand, asleep, snapshot

PLACE_MS = 1_700_000_000_000.0


def moving_job(keys: JobKeys, **changes: Any) -> scripts.MovingJob:
    job = scripts.MovingJob(
        keys,
        tenant="alice",
        record=b"record",
        ttl_ms=50_000,
        attempt=b"2",
        state={"tries": b"1", "lost": b"1"},
        place_ms=PLACE_MS,
        events=[(b"0-1", b"queued"), (b"2-0", b"started")],
    )
    return job._replace(**changes)


async def arrive(redis: Redis, job: scripts.MovingJob, *, limit: int = 100) -> str:
    return await scripts.transfer_arrive(
        redis, "interactive", job, note_ttl_s=100, queue_max_jobs=limit, max_listed=1000
    )


async def test_all_that_is_known_of_the_job_arrives(redis: Redis, hand: Hand) -> None:
    keys = JobKeys.new(0)
    await asleep(redis)
    async with Ear(redis, WOKEN) as ear:
        assert await arrive(redis, moving_job(keys)) == "arrived"
        assert await ear.heard() == [(WOKEN, b"jobs")]
    logged = await redis.xrange(keys.events)
    assert logged == [(b"0-1", {b"e": b"queued"}), (b"2-0", {b"e": b"started"})]
    for name in (PartitionKeys(0).queue("interactive"), PartitionKeys(0).tenant_jobs("alice")):
        assert await redis.zscore(name, keys.arq_id) == PLACE_MS
    claim = await hand.claim_one()
    assert (claim.attempt, claim.tries_burnt, claim.leases_lost) == (3, 1, 1)
    assert claim.record == b"record"


async def test_sent_twice_it_arrives_once_even_when_it_has_ended(redis: Redis, hand: Hand) -> None:
    """Red without the note: the job would run again."""
    keys = JobKeys.new(0)
    await arrive(redis, moving_job(keys))
    before = await snapshot(redis)
    assert await arrive(redis, moving_job(keys)) == "known"
    assert await snapshot(redis) == before
    await hand.finish(await hand.claim_one(), ev.Completed(id="3-0", at_ms=1))
    await scripts.forget(redis, keys)
    assert await arrive(redis, moving_job(keys)) == "known"
    assert not await redis.exists(keys.job, keys.events)


async def test_a_full_queue_takes_no_job(redis: Redis, hand: Hand) -> None:
    await hand.enqueue()
    before = await snapshot(redis)
    assert await arrive(redis, moving_job(JobKeys.new(0)), limit=1) == "full"
    assert await snapshot(redis) == before


async def test_a_job_without_attempts_state_and_events(redis: Redis, hand: Hand) -> None:
    keys = JobKeys.new(0)
    assert await arrive(redis, moving_job(keys, attempt=None, state={}, events=[])) == "arrived"
    assert not await redis.exists(keys.retry, keys.state, keys.events)
    assert (await hand.claim_one()).attempt == 1
