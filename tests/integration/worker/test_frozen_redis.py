"""A Redis that stands still for longer than a lease: no generation is thrown away, no job fails."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis

from darkq import Client, ConfigurationError, Settings
from darkq.event import Completed, Started
from darkq.protocol.keys import JobKeys
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.main import run_worker
from support.servers import Server, binaries, running
from support.waiting import wait_until

JOBS = 8
LEASE_S, TIMEOUT_S, FROZEN_S = 1.5, 1.0, 1.9  # a tenth of the defaults


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Server]:
    """A server that this module may freeze."""
    with running(binaries()["valkey"]) as server:
        yield server


async def freeze(server: Server, seconds: float) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    server.process.send_signal(signal.SIGCONT)


async def test_redis_frozen_past_the_lease_costs_no_attempt_and_no_call(
    client: Client,
    redis: Redis,
    redis_server: Server,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Red when claim.lua runs a claim whose sender has given it up: it takes every running job."""
    darkai = await start_darkai(chunks=90, chunks_per_s=15)
    settings = make_settings(
        darkai_url=darkai.url,
        worker_lease_s=LEASE_S,
        redis_timeout_s=TIMEOUT_S,
        worker_poll_s=0.05,
    )
    workers = [start_worker(settings) for _ in range(2)]
    jobs = await client.enqueue_many([f"number {n}" for n in range(JOBS)])
    await wait_until("all calls", lambda: darkai.requests_seen == JOBS)
    keys = [JobKeys.parse(job.id) for job in jobs]
    for _ in range(2):
        await freeze(redis_server, FROZEN_S)
        await wait_until("the leases to be taken up again", lambda: held_by_all(redis, keys))
        lost = [await redis.execute_command("HGET", each.state, "lost") for each in keys]
        assert lost == [None] * JOBS
    for job in jobs:
        await job.result(timeout_s=20)
        events = [event async for event in job.events()]
        assert [event.attempt for event in events if isinstance(event, Started)] == [1]
        assert isinstance(events[-1], Completed)
    assert darkai.requests_seen == JOBS
    assert not any(worker.done() for worker in workers)


async def held_by_all(redis: Redis, jobs: list[JobKeys]) -> bool:
    return bool(await redis.exists(*(keys.in_progress for keys in jobs)) == len(jobs))


@pytest.mark.parametrize("lease_s", [1, 10])
async def test_a_lease_that_is_not_longer_than_redis_timeout_is_refused(
    make_settings: Callable[..., Settings], lease_s: float
) -> None:
    """Red when `run_worker` starts with such settings."""
    settings = make_settings(worker_lease_s=lease_s, redis_timeout_s=10)
    with pytest.raises(ConfigurationError, match="DARKQ_REDIS_TIMEOUT_S") as caught:
        await asyncio.wait_for(run_worker(settings, handle_signals=False), 10)
    assert caught.value.setting == "DARKQ_WORKER_LEASE_S"
