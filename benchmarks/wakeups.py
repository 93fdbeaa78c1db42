"""What does a job cost Redis, and how soon is it claimed, with many idle workers?

Idle workers are simulated in this process, each with its own connections: each listens like a
worker and claims after a wake-up. Jobs are enqueued one after the other.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from redis.asyncio import Redis

from benchmarks.figures import Answer, Figures, Row
from benchmarks.processes import redis_server
from benchmarks.systems import settings_of
from darkq import Client, Settings
from darkq.protocol.keys import PartitionKeys
from darkq.redis.pubsub import Live
from darkq.redis.servers import servers_of
from darkq_worker.leases import Leases

WORKERS = (1, 100, 500)
JOBS = 100
_SETTLING_S = 0.05


async def answer(_: str, repetitions: int, scale: float) -> Answer:
    rows = []
    for workers in WORKERS:
        runs = [await _run(workers, int(JOBS * scale)) for _ in range(repetitions)]
        rows.append(
            Row(f"Redis' CPU per job, {workers} idle", "ms", Figures.of([run[0] for run in runs]))
        )
        rows.append(
            Row(f"until a claim has it, {workers} idle", "ms", Figures.of([run[1] for run in runs]))
        )
    return Answer(rows, ["One partition; the claims that a job leads to are included."])


async def _run(workers: int, jobs: int) -> tuple[float, float]:
    """Return Redis' CPU per job and the median time until it is claimed, in ms."""
    with redis_server() as url:
        settings = settings_of(url)
        async with AsyncExitStack() as stack:
            redis = await stack.enter_async_context(Redis.from_url(url))
            client = await stack.enter_async_context(Client(settings=settings))
            claimed: asyncio.Queue[float] = asyncio.Queue()
            for number in range(workers):
                await _start_idle(stack, settings, f"w{number}", claimed)
            waits_s: list[float] = []
            before_s = await _cpu_s(redis)
            for _ in range(jobs):
                begun_s = time.perf_counter()
                await client.enqueue("x")
                waits_s.append(await claimed.get() - begun_s)
                await asyncio.sleep(_SETTLING_S)  # until all woken workers have claimed
            used_s = await _cpu_s(redis) - before_s
    return used_s / jobs * 1000, sorted(waits_s)[jobs // 2] * 1000


class _Sink:
    """The sink of a wake channel: any message may mean that a job is due."""

    def __init__(self, woken: asyncio.Event) -> None:
        self._woken = woken

    def deliver(self, message: bytes) -> None:
        """Claim."""
        self._woken.set()

    def gap(self) -> None:
        """Messages may have been lost; the benchmark fails then."""


async def _start_idle(
    stack: AsyncExitStack, settings: Settings, name: str, claimed: asyncio.Queue[float]
) -> None:
    servers = servers_of(settings)
    live = Live(servers, patience_s=None)
    redis = servers.client(connections=1)
    stack.push_async_callback(redis.aclose)
    stack.push_async_callback(live.aclose)
    leases = Leases(redis, name, lease_s=60, job_ttl_s=60)
    woken = asyncio.Event()
    sink = _Sink(woken)
    for channel_name in (PartitionKeys(0).wake, PartitionKeys(0).wake_worker(name)):
        channel = stack.enter_context(live.listening(channel_name, sink))
        await channel.wait()
    await leases.claim(0, slots=100, bulk_slots=90)

    async def work() -> None:
        while True:
            await woken.wait()
            woken.clear()
            claims, _ = await leases.claim(0, slots=100, bulk_slots=90)
            for _ in claims:
                claimed.put_nowait(time.perf_counter())

    task = asyncio.create_task(work(), name=f"idle-{name}")
    stack.callback(task.cancel)


async def _cpu_s(redis: Redis) -> float:
    info = await redis.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])
