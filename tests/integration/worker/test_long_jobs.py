"""A job may run, wait and be handed on for longer than a record of it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.asyncio import Redis

from darkq import Client, JobHandle, Settings
from darkq.event import Started
from darkq.protocol.keys import JobKeys
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]

JOB_S = 4.0
TTL_S = 1.0
CHUNKS_PER_S = 12


async def test_a_job_that_runs_for_longer_than_job_ttl_completes(
    client: Client,
    redis: Redis,
    make_settings: Callable[..., Settings],
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    """Red when renew.lua leaves the job's keys their time to live."""
    darkai = await start_darkai(chunks=int(JOB_S * CHUNKS_PER_S), chunks_per_s=CHUNKS_PER_S)
    settings = make_settings(darkai_url=darkai.url, job_ttl_s=TTL_S, worker_lease_s=1)
    start_worker(settings)
    async with Client(settings=settings) as producer:
        job = await producer.enqueue("long", tries=1)
        result = await job.result(timeout_s=20)
        assert await attempts(job) == [1]
    assert result.chunks == JOB_S * CHUNKS_PER_S
    assert darkai.requests_seen == 1
    keys = JobKeys.parse(job.id)
    assert await redis.exists(keys.job, keys.retry, keys.state) == 0


async def test_a_job_that_is_handed_back_after_job_ttl_completes_elsewhere(
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    """Red when renew.lua leaves the job's record its time to live: it has `expired` then."""
    darkai = await start_darkai(chunks=int(JOB_S * CHUNKS_PER_S), chunks_per_s=CHUNKS_PER_S)
    settings = make_settings(darkai_url=darkai.url, job_ttl_s=TTL_S, worker_lease_s=1)
    first = start_worker(settings)
    async with Client(settings=settings) as producer:
        job = await producer.enqueue("long", tries=1)
        await wait_until("more text than fits into its time", lambda: has_chunks(job, 30))
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        start_worker(settings)
        assert (await job.result(timeout_s=20)).attempt == 2


async def test_retry_that_is_due_after_job_ttl_runs(
    make_settings: Callable[..., Settings],
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    """Red when release.lua leaves the record its time to live while the job waits for its turn."""
    darkai = await start_darkai(Fault.parse("status=503"), None, chunks=2)
    settings = make_settings(
        darkai_url=darkai.url,
        job_ttl_s=TTL_S,
        worker_lease_s=1,
        retry_base_s=6.0,  # half of it is random, and so at least 3 s
        retry_max_s=6.0,
    )
    start_worker(settings)
    async with Client(settings=settings) as producer:
        job = await producer.enqueue("again", tries=2)
        assert (await job.result(timeout_s=20)).attempt == 2


async def attempts(job: JobHandle) -> list[int]:
    return [event.attempt async for event in job.events() if isinstance(event, Started)]


async def has_chunks(job: JobHandle, count: int) -> bool:
    return sum([len(page) async for page in job.history()]) > count
