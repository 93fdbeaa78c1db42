"""arq's own tools read what darkq keeps in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from arq.connections import ArqRedis
from arq.jobs import DeserializationError, JobStatus, ResultNotFound
from arq.jobs import Job as ArqJob
from arq.worker import Worker, func
from redis.asyncio import ConnectionPool, Redis

from darkq import Client, JobFailed, event
from darkq.event import Cursor
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Failure, deserialize, encode, serialize
from support.by_hand import Hand, result_record
from support.servers import Server


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


@pytest.fixture
async def arq(redis_server: Server, redis: Redis) -> AsyncIterator[ArqRedis]:
    pool = ArqRedis(
        ConnectionPool.from_url(redis_server.url),
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=PartitionKeys(0).queue("interactive"),
    )
    yield pool
    await pool.aclose()
    await pool.connection_pool.aclose()


def seen_by_arq(arq: ArqRedis, job_id: str) -> ArqJob:
    return ArqJob(
        JobKeys.parse(job_id).arq_id,
        arq,
        _queue_name=PartitionKeys(0).queue("interactive"),
        _deserializer=deserialize,
    )


async def test_a_queued_job(client: Client, arq: ArqRedis) -> None:
    job = await client.enqueue("hi", metadata={"a": "b"})
    found = seen_by_arq(arq, job.id)
    assert await found.status() == JobStatus.queued
    info = await found.info()
    assert info is not None
    assert (info.function, info.kwargs) == (
        "generate",
        {"job": Job.create("hi", metadata={"a": "b"})},
    )
    assert info.score is not None
    (listed,) = await arq.queued_jobs()
    assert listed.job_id == JobKeys.parse(job.id).arq_id


async def test_a_running_and_a_deferred_job(client: Client, hand: Hand, arq: ArqRedis) -> None:
    job = await client.enqueue("hi")
    found = seen_by_arq(arq, job.id)
    claim = await hand.claim_one()
    assert await found.status() == JobStatus.in_progress
    await hand.release(claim, delay_ms=60_000)
    assert await found.status() == JobStatus.deferred


async def test_a_completed_job(client: Client, hand: Hand, arq: ArqRedis) -> None:
    job = await client.enqueue("hi")
    await hand.complete(await hand.claim_one(), "the text", Cursor(1, 0))
    found = seen_by_arq(arq, job.id)
    assert await found.status() == JobStatus.complete
    assert await found.result(timeout=1) == "the text"
    info = await found.result_info()
    assert info is not None
    assert (info.success, info.result, info.job_try) == (True, "the text", 1)
    assert info.queue_name == PartitionKeys(0).queue("interactive")
    assert not info.kwargs, "the prompt does not outlive the job"
    (listed,) = await arq.all_job_results()
    assert (listed.job_id, listed.result) == (found.job_id, "the text")


async def test_a_failed_job(client: Client, hand: Hand, arq: ArqRedis) -> None:
    job = await client.enqueue("hi")
    claim = await hand.claim_one()
    failure = Failure(type="JobFailed", code="rejected", message="no")
    end = event.Failed(id="1-0", code="rejected", message="no", at_ms=1)
    await hand.finish(claim, end, result=encode(result_record(claim.keys, failure)))
    found = seen_by_arq(arq, job.id)
    assert await found.status() == JobStatus.complete
    with pytest.raises(JobFailed, match="rejected: no") as caught:
        await found.result(timeout=1)
    assert caught.value.job_id == job.id
    info = await found.result_info()
    assert info is not None
    assert not info.success


async def test_a_cancelled_job(client: Client, arq: ArqRedis) -> None:
    job = await client.enqueue("hi")
    await job.cancel()
    found = seen_by_arq(arq, job.id)
    assert await found.status() == JobStatus.complete
    info = await found.result_info()
    assert info is not None
    assert isinstance(info.result, asyncio.CancelledError)
    with pytest.raises(asyncio.CancelledError):
        await found.result(timeout=1)


async def test_an_unknown_job(arq: ArqRedis) -> None:
    found = seen_by_arq(arq, JobKeys.new(0).public_id)
    assert await found.status() == JobStatus.not_found
    assert await found.info() is None
    with pytest.raises(ResultNotFound):
        await found.result(timeout=1)


async def test_the_result_of_a_job_that_runs_is_waited_for_with_its_queue_alone(
    client: Client, hand: Hand, arq: ArqRedis, redis_server: Server
) -> None:
    """Red if the snippet of docs/howto/migrating.md is right for finished jobs only."""
    job = await client.enqueue("hi")
    claim = await hand.claim_one()
    waiting = asyncio.create_task(seen_by_arq(arq, job.id).result(timeout=20, poll_delay=0.05))
    plain = ArqJob(JobKeys.parse(job.id).arq_id, arq, _queue_name="arq:queue")
    with pytest.raises(ResultNotFound, match="not in queue"):
        await plain.result(timeout=1)
    await hand.complete(claim, "the text", Cursor(1, 0))
    assert await waiting == "the text"


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's own
async def test_a_stock_application_in_the_same_database(
    client: Client, hand: Hand, redis_server: Server, redis: Redis
) -> None:
    """Red if docs/howto/migrating.md is not true of what such an application can do, and cannot."""

    async def double(_: dict[Any, Any], number: int) -> int:
        return 2 * number

    await client.enqueue("hi")
    await hand.complete(await hand.claim_one(), "the text", Cursor(1, 0))
    pool = ArqRedis(ConnectionPool.from_url(redis_server.url))
    worker = Worker(
        [func(cast(Any, double), name="double")], redis_pool=pool, burst=True, poll_delay=0.01
    )
    try:
        theirs = await pool.enqueue_job("double", 21)
        assert theirs is not None
        await worker.async_run()
        assert await theirs.result(timeout=5) == 42
        with pytest.raises(DeserializationError):
            await pool.all_job_results()
    finally:
        await worker.close()  # and the pool
