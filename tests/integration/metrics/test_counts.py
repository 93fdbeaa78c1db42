"""What workers count, as a gateway tells it: exactly what has happened, whoever did it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from darkq import Chunk, Client, JobCancelled, JobFailed, Settings
from darkq.protocol.keys import STATS
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from integration.metrics.conftest import scrape, scraped
from support.http_api import Api
from support.processes import WorkerProcess
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartProcess = Callable[[Settings], WorkerProcess]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]

COUNTERS = (
    "darkq_jobs_ended_total",
    "darkq_job_failures_total",
    "darkq_retries_total",
    "darkq_jobs_put_off_total",
    "darkq_leases_lost_total",
)
NO_LOSS = {"darkq_leases_lost_total": 0}


def ended(outcome: str, upstream: str = "darkai") -> str:
    return f'darkq_jobs_ended_total{{outcome="{outcome}",upstream="{upstream}"}}'


def failures(code: str, upstream: str = "darkai") -> str:
    return f'darkq_job_failures_total{{code="{code}",upstream="{upstream}"}}'


def retries(reason: str, upstream: str = "darkai") -> str:
    return f'darkq_retries_total{{reason="{reason}",upstream="{upstream}"}}'


async def test_ends_retries_and_refusals_are_counted_by_why(
    client: Client,
    api: Api,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai()
    start_worker(fast(darkai_url=darkai.url, job_tries=2))
    for job in [await client.enqueue("done") for _ in range(3)]:
        await job.result(timeout_s=10)
    failed = await client.enqueue("[fault: status=503] always")
    unknown = await client.enqueue("never", model="gpt-9")
    for job in (failed, unknown):
        with pytest.raises(JobFailed):
            await job.result(timeout_s=10)
    slow = await client.enqueue("[fault: stall=2] for ever", priority="bulk")
    async with asyncio.timeout(10):
        async for _ in slow.text():
            break
    await slow.cancel()
    with pytest.raises(JobCancelled):
        await slow.result(timeout_s=10)
    expected = {
        ended("completed"): 3,
        ended("failed"): 1,
        ended("failed", "none"): 1,
        ended("cancelled"): 1,
        failures("upstream_overloaded"): 1,
        failures("unknown_model", "none"): 1,
        retries("upstream_overloaded"): 1,
        **NO_LOSS,
    }
    await scraped(api, expected, *COUNTERS)
    seen = await scrape(api)
    claims = 'darkq_pickup_seconds_count{priority="%s"}'
    assert seen.values[claims % "interactive"] == 3 + 2 + 1
    assert seen.values[claims % "bulk"] == 1
    assert seen.values['darkq_first_chunk_seconds_count{upstream="darkai"}'] == 3 + 1


async def test_chunks_are_counted_and_each_event_is_timed(
    client: Client,
    api: Api,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai(chunks=50)
    start_worker(fast(darkai_url=darkai.url))
    jobs = [await client.enqueue("hello") for _ in range(4)]
    results = [await job.result(timeout_s=10) for job in jobs]
    chunks = sum(result.chunks for result in results)
    await scraped(api, {'darkq_chunks_total{upstream="darkai"}': chunks}, "darkq_chunks_total")
    events = 0
    for job in jobs:
        events += sum([isinstance(event, Chunk) async for event in job.events()])
    seen = await scrape(api)
    assert seen.values["darkq_chunk_relay_seconds_count"] == events
    assert 0 < seen.values["darkq_chunk_relay_seconds_sum"] < 10 * events


async def test_two_workers_add_up(
    client: Client,
    api: Api,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai(chunks=10, chunks_per_s=50)
    for _ in range(2):
        start_worker(fast(darkai_url=darkai.url, worker_jobs=3, worker_reserved_interactive=0))
    await wait_until("both", lambda: has_workers(client, 2))
    jobs = [await client.enqueue("hello") for _ in range(12)]
    for job in jobs:
        await job.result(timeout_s=20)
    await scraped(api, {ended("completed"): 12, **NO_LOSS}, *COUNTERS)
    assert (await scrape(api)).values["darkq_workers"] == 2


async def has_workers(client: Client, count: int) -> bool:
    return len(await client.workers()) == count


async def test_a_killed_workers_lease_is_counted_once_by_whoever_goes_on(
    client: Client,
    api: Api,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_process: StartProcess,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai(Fault.parse("stall=2"))
    settings = fast(darkai_url=darkai.url)
    process = start_process(settings)
    done = await client.enqueue("until it is killed")
    async with asyncio.timeout(20):
        async for _ in done.text():
            break
    process.send(signal.SIGKILL)
    await process.wait()
    start_worker(settings)
    assert (await done.result(timeout_s=20)).attempt == 2
    await scraped(api, {ended("completed"): 1, "darkq_leases_lost_total": 1}, *COUNTERS)


async def test_a_worker_that_is_stopped_takes_no_count_with_it(
    client: Client,
    api: Api,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    """It has had no heartbeat: leases last an hour here."""
    darkai = await start_darkai()
    worker = start_worker(fast(darkai_url=darkai.url, worker_lease_s=3600))
    await (await client.enqueue("done")).result(timeout_s=10)
    stalled = await client.enqueue("[fault: stall=2] handed back")
    async with asyncio.timeout(10):
        async for _ in stalled.text():
            break
    worker.cancel()
    await asyncio.wait([worker])
    expected = {ended("completed"): 1, retries("worker_shutdown"): 1, **NO_LOSS}
    assert (await scrape(api)).some(*COUNTERS) == expected


async def test_a_worker_that_is_killed_takes_what_came_since_its_heartbeat(
    client: Client,
    api: Api,
    redis: Redis,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_process: StartProcess,
) -> None:
    darkai = await start_darkai()
    process = start_process(fast(darkai_url=darkai.url, worker_lease_s=3600))
    await (await client.enqueue("done")).result(timeout_s=20)
    process.send(signal.SIGKILL)
    await process.wait()
    assert (await scrape(api)).some(*COUNTERS) == NO_LOSS
    assert not await redis.exists(STATS)


async def test_what_a_limit_puts_off_is_counted_and_its_window_shown(
    client: Client,
    api: Api,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai()
    start_worker(fast(darkai_url=darkai.url, darkai_limits="1/3600", darkai_concurrency=5))
    await (await client.enqueue("first")).result(timeout_s=10)
    await client.enqueue("second")
    put_off = {'darkq_jobs_put_off_total{upstream="darkai"}': 1.0}
    await scraped(api, put_off, "darkq_jobs_put_off_total")
    await wait_until("its announcement", client.upstreams)
    seen = await scrape(api)
    window = '{upstream="darkai",window_seconds="3600"}'
    assert seen.values[f"darkq_upstream_window_calls{window}"] == 1
    assert seen.values[f"darkq_upstream_window_calls_max{window}"] == 1
    assert seen.values['darkq_upstream_jobs_waiting{upstream="darkai"}'] == 1
    assert seen.values['darkq_upstream_workers{upstream="darkai"}'] == 1
    assert seen.values['darkq_jobs{priority="interactive",state="deferred"}'] == 1


async def test_an_open_breaker_shows(
    client: Client,
    api: Api,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai()
    start_worker(fast(darkai_url=darkai.url, breaker_failures=1, breaker_cooldown_s=60))
    await client.enqueue("[fault: status=503] down")
    breaker = 'darkq_upstream_breaker{state="%s",upstream="darkai"}'
    expected = {breaker % state: float(state == "open") for state in
                ("closed", "open", "half-open", "blocked")}  # fmt: skip
    await scraped(api, expected, "darkq_upstream_breaker")
