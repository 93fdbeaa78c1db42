"""Workers that die, freeze and stop; a Redis that restarts. Real processes, real signals."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq import Client, JobHandle, Settings
from darkq.event import AnyEvent, Chunk, Completed, Retrying, Started
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis.servers import read_clock_ms
from darkq_local.local_darkai import LocalDarkAI
from faults.proxy import FaultProxy
from support.processes import WorkerProcess
from support.servers import Server, binaries, running
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartProcess = Callable[[Settings], WorkerProcess]
MakeSettings = Callable[..., Settings]

LEASE_S = 1.0


class Reader:
    """Reads a job's events in the background."""

    def __init__(self, job: JobHandle) -> None:
        self.events: list[AnyEvent] = []
        self._task = asyncio.create_task(self._read(job))

    async def _read(self, job: JobHandle) -> None:
        async for event in job.events():
            self.events.append(event)

    async def until(self, event_id: str) -> None:
        """Wait until an event has come."""
        await wait_until(f"event {event_id}", lambda: event_id in [e.id for e in self.events])

    async def to_the_end(self, timeout_s: float = 20.0) -> None:
        """Wait for the terminal event."""
        async with asyncio.timeout(timeout_s):
            await self._task

    def text(self, attempt: int) -> str:
        """The text of one attempt."""
        return "".join(
            event.text
            for event in self.events
            if isinstance(event, Chunk) and event.cursor.attempt == attempt
        )

    def check(self) -> None:
        """Each event once and in order, and no chunk before its attempt's `started`."""
        cursors = [event.cursor for event in self.events]
        assert cursors == sorted(set(cursors))
        begun = 0
        for event in self.events:
            if isinstance(event, Started):
                begun = event.attempt
            elif isinstance(event, Chunk):
                assert event.cursor.attempt == begun


@pytest.fixture
async def world(
    make_settings: MakeSettings, start_darkai: StartDarkAI
) -> tuple[LocalDarkAI, Settings]:
    """A slow local DarkAI, and settings of workers with a short lease."""
    darkai = await start_darkai(chunks=120, chunks_per_s=40)
    settings = make_settings(
        darkai_url=darkai.url, worker_lease_s=LEASE_S, worker_shutdown_grace_s=5
    )
    return darkai, settings


async def start(start_process: StartProcess, settings: Settings) -> WorkerProcess:
    worker = start_process(settings)
    await wait_until("the worker to be ready", lambda: worker.ready)
    return worker


async def start_two(start_process: StartProcess, settings: Settings) -> list[WorkerProcess]:
    workers = [start_process(settings) for _ in range(2)]
    for worker in workers:
        await wait_until("the worker to be ready", lambda w=worker: w.ready)  # type: ignore[misc]
    return workers


async def holder(redis: Redis, job: JobHandle, workers: list[WorkerProcess]) -> WorkerProcess:
    """Return the worker that runs a job: its pid stands in the lease's token."""
    token = await redis.get(JobKeys.parse(job.id).in_progress)
    assert token is not None
    pid = int(token.split(b":")[1])
    return next(worker for worker in workers if worker.pid == pid)


async def test_a_killed_workers_job_runs_elsewhere_within_the_lease(
    world: tuple[LocalDarkAI, Settings],
    client: Client,
    redis: Redis,
    start_process: StartProcess,
) -> None:
    """Red when claim.lua makes another score than the lease's end."""
    _, settings = world
    workers = await start_two(start_process, settings)
    job = await client.enqueue("survive", tries=1)
    reader = Reader(job)
    await reader.until("1-5")
    keys = JobKeys.parse(job.id)
    due_ms = await redis.zscore(PartitionKeys(0).queue("interactive"), keys.arq_id)
    left_ms = await redis.pttl(keys.in_progress)
    # Read in this order, a renewal in between changes nothing.
    assert due_ms <= await read_clock_ms(redis) + left_ms + 1
    (await holder(redis, job, workers)).send(signal.SIGKILL)
    await reader.until("2-0")
    await reader.to_the_end()
    reader.check()
    assert isinstance(reader.events[-1], Completed)
    result = await job.result()
    assert (result.text, result.attempt) == (reader.text(2), 2)


async def test_suspended_worker_changes_nothing_after_its_lease(
    world: tuple[LocalDarkAI, Settings],
    client: Client,
    redis: Redis,
    start_process: StartProcess,
) -> None:
    """Red without the ownership check in finish.lua, or the refusal in append.lua."""
    _, settings = world
    workers = await start_two(start_process, settings)
    job = await client.enqueue("survive", tries=1)
    reader = Reader(job)
    await reader.until("1-5")
    zombie = await holder(redis, job, workers)
    zombie.send(signal.SIGSTOP)
    await reader.to_the_end()
    reader.check()
    keys = JobKeys.parse(job.id)
    before = await redis.get(keys.result), await redis.xrange(keys.events)
    assert before[0] is not None
    zombie.send(signal.SIGCONT)
    lost = f"job={job.id} attempt=1 outcome=lost"
    await wait_until("the zombie to notice", lambda: lost in zombie.log.read_text())
    assert (await redis.get(keys.result), await redis.xrange(keys.events)) == before
    assert (await job.result()).attempt == 2


async def test_job_finishes_within_the_shutdown_grace(
    world: tuple[LocalDarkAI, Settings], client: Client, start_process: StartProcess
) -> None:
    darkai, settings = world
    worker = await start(start_process, settings)
    job = await client.enqueue("finish")
    reader = Reader(job)
    await reader.until("1-3")
    worker.send(signal.SIGTERM)
    await wait_until(
        "the worker to begin to stop", lambda: "shutdown requested" in worker.log.read_text()
    )
    late = await client.enqueue("for the next worker")
    assert await worker.wait() == 0
    await reader.to_the_end()
    assert (await job.result()).attempt == 1
    assert darkai.requests_seen == 1, "a stopping worker claims nothing"
    assert (await late.status()).state == "queued"


async def test_a_second_signal_hands_back_at_once_and_burns_no_try(
    world: tuple[LocalDarkAI, Settings], client: Client, start_process: StartProcess
) -> None:
    _, settings = world
    worker = await start(start_process, settings)
    job = await client.enqueue("hand over", tries=1)
    reader = Reader(job)
    await reader.until("1-3")
    worker.send(signal.SIGTERM)
    await wait_until("the worker to begin to stop", lambda: "SIGTERM" in worker.log.read_text())
    worker.send(signal.SIGTERM)
    assert await worker.wait(3) == 0
    await start(start_process, settings)
    await reader.to_the_end()
    reader.check()
    (retrying,) = [event for event in reader.events if isinstance(event, Retrying)]
    assert retrying.reason == "worker_shutdown"
    assert (await job.result()).text == reader.text(2)


async def test_second_signal_hands_back_jobs_of_a_claim_under_way(
    redis_server: Server,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    client: Client,
    redis: Redis,
    start_process: StartProcess,
) -> None:
    """Red when the signal cancels the claim: its job waits for a lease that nobody holds."""
    darkai = await start_darkai(chunks=5)
    async with FaultProxy(redis_server.socket) as proxy:
        worker = await start(
            start_process,
            make_settings(redis_url=proxy.url, darkai_url=darkai.url, worker_poll_s=0.1),
        )
        await (await client.enqueue("before")).result(timeout_s=10)
        proxy.stall("request")
        job = await client.enqueue("hand over", tries=1)
        for _ in range(5):  # so that the reply to an earlier claim has passed
            await redis.ping()
        proxy.stall("reply")
        proxy.resume("request")
        keys = JobKeys.parse(job.id)

        async def is_claimed() -> bool:
            return bool(await redis.exists(keys.in_progress))

        await wait_until("the claim", is_claimed)
        worker.send(signal.SIGTERM)
        await wait_until("it to stop", lambda: "shutdown requested" in worker.log.read_text())
        worker.send(signal.SIGTERM)
        proxy.mend()
        assert await worker.wait(8) == 0
        status = await job.status()
        assert (status.state, status.attempt, status.tries) == ("queued", 1, 0)
    assert darkai.requests_seen == 1


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Server]:
    """A server that loses nothing it has acknowledged."""
    with running(binaries()["valkey"], "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
async def durable_client(durable: Server) -> AsyncIterator[Client]:
    async with Client(durable.url) as client:
        yield client


async def test_killed_and_restarted_redis_loses_nothing(
    durable: Server,
    durable_client: Client,
    start_darkai: StartDarkAI,
    make_settings: MakeSettings,
    start_process: StartProcess,
) -> None:
    """The same attempt goes on: its worker, its reader and its text survive."""
    darkai = await start_darkai(chunks=60, chunks_per_s=40)
    settings = make_settings(redis_url=durable.url, darkai_url=darkai.url, worker_lease_s=LEASE_S)
    worker = await start(start_process, settings)
    job = await durable_client.enqueue("outlive it", tries=1)
    reader = Reader(job)
    await reader.until("1-10")
    durable.kill()
    await asyncio.sleep(LEASE_S * 1.5)  # longer than the lease: the fault itself, not a wait
    durable.start()
    await reader.to_the_end()
    reader.check()
    result = await job.result()
    assert (result.text, result.attempt) == (reader.text(1), 1), worker.log.read_text()
    assert result.chunks == 60


async def test_shutdown_does_not_wait_for_an_unavailable_redis(
    durable: Server,
    start_darkai: StartDarkAI,
    make_settings: MakeSettings,
    start_process: StartProcess,
) -> None:
    darkai = await start_darkai(chunks=100, chunks_per_s=10)
    settings = make_settings(
        redis_url=durable.url, darkai_url=darkai.url, worker_shutdown_grace_s=0
    )
    worker = await start(start_process, settings)
    async with Client(durable.url) as client:
        await client.enqueue("abandoned")
        await wait_until("the job to run", lambda: darkai.requests_seen == 1)
    durable.kill()
    worker.send(signal.SIGTERM)
    assert await worker.wait(15) == 0


async def test_a_worker_waits_for_a_redis_that_is_not_there_yet(
    start_darkai: StartDarkAI,
    make_settings: MakeSettings,
    start_process: StartProcess,
) -> None:
    darkai = await start_darkai(chunks=5)
    with running(binaries()["valkey"]) as server:
        server.stop()
        worker = start_process(make_settings(redis_url=server.url, darkai_url=darkai.url))
        await wait_until(
            "the worker to log the outage", lambda: "Redis unavailable" in worker.log.read_text()
        )
        server.start()
        async with Client(server.url) as client:
            assert (await (await client.enqueue("hello")).result(timeout_s=10)).text


async def test_many_running_jobs_do_not_hide_a_new_one(
    redis: Redis, client: Client, world: tuple[LocalDarkAI, Settings], start_process: StartProcess
) -> None:
    """Stock arq never starts a job behind 100 running ones."""
    now_ms = int(time.time() * 1000)
    running_elsewhere = {f"{{0}}{n:032x}": now_ms + 600_000 for n in range(5000)}
    await redis.zadd(PartitionKeys(0).queue("interactive"), running_elsewhere)
    await start(start_process, world[1])
    job = await client.enqueue("me too")
    assert (await job.result(timeout_s=10)).text
    await redis.delete(PartitionKeys(0).queue("interactive"))
