"""`finish.lua` keeps what has failed; `revive.lua` queues it again."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CannotRetry, JobNotFound, QueueFull
from darkq.event import Cursor
from darkq.jobs import failed as room
from darkq.jobs.cancel import cancel
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Failure, encode
from darkq.redis import scripts
from darkq.settings.settings import Settings
from darkq_worker.leases import Claim
from support.by_hand import (
    WOKEN,
    Ear,
    Hand,
    asleep,
    chunk,
    event_ids,
    put,
    result_record,
    snapshot,
    started,
)

SETTINGS = Settings.model_validate({"job_ttl_s": 50})


async def retry(redis: Redis, keys: JobKeys, settings: Settings = SETTINGS) -> None:
    await room.retry(redis, keys, settings)


async def revive(redis: Redis, claim: Claim, known: bytes) -> str:
    """One call of the script, by somebody who has read the result of attempt 1."""
    event = ev.Queued(id="2-0", at_ms=1)
    return await scripts.revive(
        redis,
        claim.keys,
        claim.queue,
        known=known,
        attempt=2,
        job_ttl_s=50,
        queue_max_jobs=1000,
        event_id=event.id,
        event=ev.encode(event),
    )


async def failed(hand: Hand, *, ttl_ms: int = 60_000) -> Claim:
    """A job that has written two chunks and then failed."""
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1), chunk(1, 2))
    await hand.fail(claim, Cursor(1, 3), ttl_ms=ttl_ms)
    return claim


async def test_a_failed_job_keeps_its_record_and_is_listed(redis: Redis, hand: Hand) -> None:
    claim = await failed(hand, ttl_ms=5000)
    keys = claim.keys
    kept = {keys.result, keys.events, keys.failed, PartitionKeys(0).failed}
    assert set(await redis.keys()) == {
        name.encode() for name in kept | {PartitionKeys(0).tenant_jobs(None)}
    }
    assert await redis.get(keys.failed) == claim.record
    seconds, _ = await redis.time()
    ((member, score),) = await redis.zrange(PartitionKeys(0).failed, 0, -1, withscores=True)
    assert member == keys.arq_id.encode()
    assert abs(score - seconds * 1000) < 10_000
    for name in kept:
        assert 4000 < await redis.pttl(name) <= 5000, name


async def test_other_ends_keep_no_prompt(redis: Redis, hand: Hand) -> None:
    completed = await hand.take()
    await hand.complete(completed, "text", Cursor(1, 0))
    waiting = await hand.enqueue()
    await cancel(redis, waiting, result_ttl_s=60)
    assert await redis.exists(completed.keys.failed, waiting.failed, PartitionKeys(0).failed) == 0
    assert await redis.exists(completed.keys.job, waiting.job) == 0


async def test_the_list_forgets_what_is_not_kept_any_more(redis: Redis, hand: Hand) -> None:
    seconds, _ = await redis.time()
    now_ms = seconds * 1000
    await redis.zadd(
        PartitionKeys(0).failed, {"long ago": now_ms - 61_000, "of late": now_ms - 30_000}
    )
    claim = await failed(hand, ttl_ms=60_000)
    members = await redis.zrange(PartitionKeys(0).failed, 0, -1)
    assert members == [b"of late", claim.keys.arq_id.encode()]


async def test_an_expired_job_is_listed_and_cannot_be_run_again(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await redis.delete(claim.keys.job)
    await hand.fail(claim, Cursor(1, 0))
    assert await redis.zcard(PartitionKeys(0).failed) == 1
    before = await snapshot(redis)
    with pytest.raises(CannotRetry, match="prompt is no longer kept"):
        await retry(redis, claim.keys)
    assert await snapshot(redis) == before


async def test_it_waits_again_as_a_new_job_does(redis: Redis, hand: Hand) -> None:
    claim = await failed(hand)
    keys = claim.keys
    await asleep(redis)
    async with Ear(redis, keys.live, WOKEN) as ear:
        await retry(redis, keys)
        (channel, queued), woken = await ear.heard()
    assert (channel, woken) == (keys.live, (WOKEN, b"jobs"))
    assert isinstance(ev.decode(queued), ev.Queued)
    left = {
        keys.job,
        keys.retry,
        keys.events,
        PartitionKeys(0).queue("interactive"),
        PartitionKeys(0).tenant_jobs(None),
    }
    assert set(await redis.keys()) == {name.encode() for name in left}
    assert await redis.get(keys.job) == claim.record
    assert 40_000 < await redis.pttl(keys.job) <= 50_000
    for name in (keys.retry, keys.events):
        assert 90_000 < await redis.pttl(name) <= 100_000, "they tell of an expired job's end"
    again = await hand.claim_one()
    assert again.record == claim.record
    assert (again.tries_burnt, again.leases_lost, again.cancelled) == (0, 0, False)


async def test_the_log_goes_on_without_the_end_that_was_taken_back(
    redis: Redis, hand: Hand
) -> None:
    claim = await failed(hand)
    assert (await event_ids(redis, claim.keys))[-1] == "1-3"
    await retry(redis, claim.keys)
    again = await hand.claim_one()
    assert again.attempt == 3
    assert await hand.append(again, started(3)) == []
    assert await event_ids(redis, claim.keys) == ["0-1", "1-0", "1-1", "1-2", "2-0", "3-0"]


async def test_a_log_that_is_gone_begins_anew(redis: Redis, hand: Hand) -> None:
    claim = await failed(hand)
    await redis.delete(claim.keys.events)
    await retry(redis, claim.keys)
    assert await event_ids(redis, claim.keys) == ["2-0"]


async def test_again_and_again_the_numbers_only_grow(redis: Redis, hand: Hand) -> None:
    claim = await failed(hand)
    for attempt in (3, 5, 7):
        await retry(redis, claim.keys)
        claim = await hand.claim_one()
        assert claim.attempt == attempt
        await hand.append(claim, started(attempt))
        await hand.fail(claim, Cursor(attempt, 1))
    ids = await event_ids(redis, claim.keys)
    assert ids[4:] == ["2-0", "3-0", "4-0", "5-0", "6-0", "7-0", "7-1"]


async def test_whoever_held_it_before_changes_nothing(redis: Redis, hand: Hand) -> None:
    """Red when `revive` does not keep the number of the attempt."""
    zombie = await failed(hand)
    await retry(redis, zombie.keys)
    for claimed in (False, True):
        if claimed:
            await hand.claim_one()
        before = await snapshot(redis)
        assert await hand.append(zombie, chunk(1, 3)) == [0]
        assert await hand.finish(zombie, ev.Completed(id="9-9", at_ms=1)) == 0
        assert await hand.release(zombie, delay_ms=0) == 0
        assert (await hand.leases.renew([zombie])).lost == [zombie]
        assert await snapshot(redis) == before


async def test_it_goes_back_to_its_own_queue_behind_those_that_wait(
    redis: Redis, hand: Hand
) -> None:
    first = await hand.enqueue(priority="bulk")
    claim = await hand.claim_one()
    await hand.fail(claim, Cursor(1, 0))
    second = await hand.enqueue(priority="bulk")
    await retry(redis, first)
    assert [claim.keys for claim in await hand.claim()] == [second, first]


async def test_waiting_again_it_can_be_cancelled(redis: Redis, hand: Hand) -> None:
    claim = await failed(hand)
    await retry(redis, claim.keys)
    await cancel(redis, claim.keys, result_ttl_s=60)
    assert (await event_ids(redis, claim.keys))[-2:] == ["2-0", "3-0"]
    with pytest.raises(CannotRetry, match="it is cancelled"):
        await retry(redis, claim.keys)


async def test_a_second_producer_still_gets_the_same_job(redis: Redis, hand: Hand) -> None:
    claim = await failed(hand)
    await retry(redis, claim.keys)
    before = await snapshot(redis)
    assert (await put(redis, claim.keys))[0].verdict == "duplicate"
    assert await snapshot(redis) == before


async def test_only_a_failed_job_is_run_again(redis: Redis, hand: Hand) -> None:
    done = await hand.take()
    await hand.complete(done, "text", Cursor(1, 0))
    running = await hand.take()
    waiting = await hand.enqueue()
    before = await snapshot(redis)
    for keys, state in ((done.keys, "completed"), (running.keys, "running"), (waiting, "queued")):
        with pytest.raises(CannotRetry, match=f"it is {state}"):
            await retry(redis, keys)
    with pytest.raises(JobNotFound):
        await retry(redis, JobKeys.new(0))
    assert await snapshot(redis) == before


async def test_two_at_once_run_it_again_once(redis: Redis, hand: Hand) -> None:
    """The second comes with a result that is not there any more. Red without that question."""
    claim = await failed(hand)
    known = await redis.get(claim.keys.result)
    assert await revive(redis, claim, known) == "queued"
    before = await snapshot(redis)
    assert await revive(redis, claim, known) == "again"
    assert await snapshot(redis) == before
    with pytest.raises(CannotRetry, match="it is queued"):
        await retry(redis, claim.keys)


async def test_a_full_queue_takes_it_no_more_than_a_new_job(redis: Redis, hand: Hand) -> None:
    """Red without the question in `revive.lua`."""
    claim = await failed(hand)
    await hand.enqueue()
    before = await snapshot(redis)
    with pytest.raises(QueueFull) as caught:
        await retry(redis, claim.keys, Settings.model_validate({"queue_max_jobs": 1}))
    assert (caught.value.queue, caught.value.limit) == (PartitionKeys(0).queue("interactive"), 1)
    assert await snapshot(redis) == before


async def test_a_result_that_names_no_queue_of_ours(redis: Redis, hand: Hand) -> None:
    claim = await failed(hand)
    forged = result_record(claim.keys, Failure(type="JobFailed", code="c", message="m"))
    await redis.set(claim.keys.result, encode(forged).replace(b"interactive", b"wake"), px=5000)
    await retry(redis, claim.keys)
    assert (await hand.claim_one()).keys == claim.keys
