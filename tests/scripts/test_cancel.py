"""`cancel.lua`: at once while a job waits, by a durable word while it runs."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import JobNotFound
from darkq.event import Cancelled
from darkq.jobs.cancel import cancel
from darkq.jobs.status import read_status
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.protocol.record import decode_result
from darkq.redis import scripts
from support.by_hand import TTL_MS, Ear, Hand, chunk, event_ids, gone, snapshot, started
from support.waiting import wait_until


async def ask(redis: Redis, keys: JobKeys, *, attempt: int = 0) -> str:
    """One call of the script, by somebody who knows of `attempt` attempts."""
    event = Cancelled(id=f"{attempt + 1}-0", at_ms=1)
    return await scripts.cancel(
        redis,
        keys,
        attempt=attempt,
        result=b"result",
        result_ttl_s=TTL_MS / 1000,
        event_id=event.id,
        event=ev.encode(event),
    )


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_a_waiting_job_is_gone_at_once(redis: Redis, hand: Hand, priority: str) -> None:
    keys = await hand.enqueue(priority="bulk" if priority == "bulk" else "interactive")
    async with Ear(redis, keys.live, PartitionKeys(0).wake) as ear:
        await cancel(redis, keys, result_ttl_s=60)
        ((channel, message),) = await ear.heard()
    assert channel == keys.live
    event = ev.decode(message)
    assert isinstance(event, Cancelled)
    assert event.id == "1-0"
    assert await event_ids(redis, keys) == ["0-1", "1-0"]
    result = decode_result(await redis.get(keys.result))
    assert (result.d.outcome, result.s, result.t) == ("cancelled", False, 1)
    assert result.q == PartitionKeys(0).queue("bulk" if priority == "bulk" else "interactive")
    left = (keys.result, keys.events, PartitionKeys(0).tenant_jobs(None))
    assert set(await redis.keys()) == {name.encode() for name in left}
    assert await hand.claim() == []
    for name in (keys.result, keys.events):
        assert 50_000 < await redis.pttl(name) <= 60_000


async def test_a_running_job_gets_the_word_and_goes_on_until_its_worker_ends_it(
    redis: Redis, hand: Hand
) -> None:
    claim = await hand.take()
    async with Ear(redis, claim.keys.live, PartitionKeys(0).wake) as ear:
        assert await ask(redis, claim.keys, attempt=1) == "running"
        assert await ear.heard() == [
            (PartitionKeys(0).wake, f"cancel {claim.keys.arq_id}".encode())
        ]
    assert await redis.execute_command("HGET", claim.keys.state, "cancel") == b"1"
    assert await redis.exists(claim.keys.result) == 0
    assert await hand.append(claim, started(1), chunk(1, 1)) == []
    assert await hand.finish(claim, Cancelled(id="1-2", at_ms=1)) == 1


async def test_a_running_job_may_be_asked_twice(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    assert await ask(redis, claim.keys, attempt=1) == "running"
    before = await snapshot(redis)
    assert await ask(redis, claim.keys, attempt=1) == "running"
    assert await snapshot(redis) == before


async def test_a_finished_job_stays_what_it_is(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await hand.finish(claim, ev.Completed(id="1-0", at_ms=1))
    before = await snapshot(redis)
    async with Ear(redis, claim.keys.live, PartitionKeys(0).wake) as ear:
        assert await ask(redis, claim.keys) == "finished"
        assert await ear.heard() == []
    assert await snapshot(redis) == before


async def test_a_cancelled_job_may_be_cancelled_again(redis: Redis, hand: Hand) -> None:
    keys = await hand.enqueue()
    await cancel(redis, keys, result_ttl_s=60)
    before = await snapshot(redis)
    await cancel(redis, keys, result_ttl_s=60)
    assert await snapshot(redis) == before


async def test_an_unknown_job(redis: Redis) -> None:
    keys = JobKeys.new(0)
    assert await ask(redis, keys) == "unknown"
    assert await redis.keys() == []
    with pytest.raises(JobNotFound):
        await cancel(redis, keys, result_ttl_s=60)


async def test_a_job_that_waits_for_its_next_try(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1))
    await hand.release(claim, chunk(1, 1), delay_ms=60_000, burns=True)
    await cancel(redis, claim.keys, result_ttl_s=60)
    assert await event_ids(redis, claim.keys) == ["0-1", "1-0", "1-1", "2-0"]
    assert decode_result(await redis.get(claim.keys.result)).t == 2
    assert (
        await redis.exists(
            PartitionKeys(0).queue("interactive"), claim.keys.retry, claim.keys.state
        )
        == 0
    )


@pytest.mark.parametrize("known", [0, 2])
async def test_whoever_knows_of_another_attempt_must_look_again(
    redis: Redis, hand: Hand, known: int
) -> None:
    """A claim and its end came between the look and the call."""
    claim = await hand.take()
    await hand.release(claim, delay_ms=60_000)
    before = await snapshot(redis)
    assert await ask(redis, claim.keys, attempt=known) == "again"
    assert await snapshot(redis) == before
    assert await ask(redis, claim.keys, attempt=1) == "cancelled"


async def test_a_job_whose_lease_has_run_out_may_still_run(redis: Redis) -> None:
    """After an outage of Redis its worker takes it up again, and closes the connection first."""
    hand = Hand(redis, lease_s=0.3)
    claim = await hand.take()
    await wait_until("the lease to run out", lambda: gone(redis, claim.keys.in_progress))
    async with Ear(redis, claim.keys.live, PartitionKeys(0).wake) as ear:
        assert await ask(redis, claim.keys, attempt=1) == "running"
        assert await ear.heard() == [
            (PartitionKeys(0).wake, f"cancel {claim.keys.arq_id}".encode())
        ]
    assert await redis.exists(claim.keys.result) == 0
    assert (await read_status(redis, claim.keys)).state == "cancelling"
    assert await hand.leases.renew([claim]) == ([], [claim])
    assert await hand.finish(claim, Cancelled(id="1-0", at_ms=1)) == 1


async def test_if_its_worker_is_dead_the_next_one_ends_it(redis: Redis) -> None:
    hand = Hand(redis, lease_s=0.3)
    claim = await hand.take()
    await wait_until("the lease to run out", lambda: gone(redis, claim.keys.in_progress))
    assert await ask(redis, claim.keys, attempt=1) == "running"
    (again,) = await wait_until("the next claim", hand.claim)
    assert (again.keys, again.attempt, again.cancelled) == (claim.keys, 2, True)


async def test_the_former_holder_can_write_nothing_after_it(redis: Redis, hand: Hand) -> None:
    """It has given the job back, or so it is told; the canceller's attempt fences it."""
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    await hand.release(claim, delay_ms=60_000)
    assert await ask(redis, claim.keys, attempt=1) == "cancelled"
    before = await snapshot(redis)
    async with Ear(redis, claim.keys.live) as ear:
        assert await hand.append(claim, chunk(1, 2)) == [0]
        end = ev.Completed(id="1-2", at_ms=1)
        assert await hand.finish(claim, end, result=b"the former holder's") == 0
        assert await hand.release(claim, delay_ms=0) == 0
        assert await hand.leases.renew([claim]) == ([claim], [])
        assert await ear.heard() == []
    assert await snapshot(redis) == before


async def test_a_job_whose_record_has_expired_can_be_cancelled(redis: Redis, hand: Hand) -> None:
    keys = await hand.enqueue()
    await redis.delete(keys.job)
    await cancel(redis, keys, result_ttl_s=60)
    assert decode_result(await redis.get(keys.result)).d.outcome == "cancelled"
    assert await redis.exists(PartitionKeys(0).queue("interactive")) == 0


async def test_a_log_that_is_gone_is_not_made_anew(redis: Redis, hand: Hand) -> None:
    keys = await hand.enqueue()
    await redis.delete(keys.events)
    await cancel(redis, keys, result_ttl_s=60)
    assert await redis.exists(keys.events) == 0
