"""Where a job stands, in each of its states, and what cancelling does there."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq import Client, JobNotFound, event
from darkq.event import Cursor
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import Failure, encode
from support.by_hand import Hand, gone, result_record, started
from support.waiting import wait_until


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


async def test_queued(client: Client) -> None:
    job = await client.enqueue("hi", model="m", upstream="u", metadata={"a": "b"})
    status = await job.status()
    assert (status.state, status.attempt, status.tries, status.due_in_ms) == ("queued", 0, 0, 0)
    assert (status.model, status.upstream, status.metadata) == ("m", "u", {"a": "b"})
    assert status.queued_ms > 0
    assert (await job.cancel()).state == "cancelled"


async def test_running_then_cancelling(client: Client, hand: Hand) -> None:
    job = await client.enqueue("hi")
    claim = await hand.claim_one()
    status = await job.status()
    assert (status.state, status.attempt, status.due_in_ms) == ("running", 1, 0)
    assert (await job.cancel()).state == "cancelling"
    assert (await job.cancel()).state == "cancelling"
    await hand.finish(claim, result=encode(result_record(claim.keys, _cancelled())))
    assert (await job.status()).state == "cancelled"


async def test_deferred(client: Client, hand: Hand) -> None:
    job = await client.enqueue("hi")
    await hand.release(await hand.claim_one(), delay_ms=60_000, burns=True)
    status = await job.status()
    assert (status.state, status.attempt, status.tries) == ("deferred", 1, 1)
    assert 50_000 < status.due_in_ms <= 60_000
    assert (await job.cancel()).state == "cancelled"


async def test_a_job_whose_worker_died_is_queued_again(client: Client, redis: Redis) -> None:
    job = await client.enqueue("hi")
    claim = await Hand(redis, lease_s=0.3).claim_one()
    await wait_until("the lease to run out", lambda: gone(redis, claim.keys.in_progress))
    status = await job.status()
    assert (status.state, status.attempt) == ("queued", 1)


async def test_completed_stays_completed(client: Client, hand: Hand) -> None:
    job = await client.enqueue("hi")
    claim = await hand.claim_one()
    await hand.append(claim, started(1))
    await hand.complete(claim, "text", Cursor(1, 1))
    for status in (await job.status(), await job.cancel()):
        assert (status.state, status.attempt) == ("completed", 1)


async def test_failed_stays_failed(client: Client, hand: Hand) -> None:
    job = await client.enqueue("hi")
    claim = await hand.claim_one()
    failure = Failure(type="JobFailed", code="c", message="m")
    end = event.Failed(id="1-0", code="c", message="m", at_ms=1)
    await hand.finish(claim, end, result=encode(result_record(claim.keys, failure)))
    for status in (await job.status(), await job.cancel()):
        assert status.state == "failed"


async def test_unknown(client: Client) -> None:
    job = client.job(JobKeys.new(0).public_id)
    for call in (job.status(), job.cancel()):
        with pytest.raises(JobNotFound) as caught:
            await call
        assert caught.value.job_id == job.id


async def test_the_record_has_expired_and_the_job_still_waits(client: Client, redis: Redis) -> None:
    job = await client.enqueue("hi", model="m")
    await redis.delete(JobKeys.parse(job.id).job)
    status = await job.status()
    assert (status.state, status.model) == ("queued", None)
    assert (await job.cancel()).state == "cancelled"


def _cancelled() -> Failure:
    return Failure(type="JobCancelled", code="cancelled", message="cancelled")
