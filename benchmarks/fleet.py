"""Several workers on one server or on a cluster, and the resources that they use.

`INFO` of the servers has their processor time, the scripts and commands that they ran, and the
bytes received and sent. Workers share the two cores; everything else is on the second one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import NamedTuple

from redis.asyncio import Redis

from benchmarks.machine import THE_REST, UNDER_TEST, cpu_s, machine_cpu_s, on_core, rss_bytes
from benchmarks.processes import child, redis_server
from benchmarks.systems import frozen, settings_of
from darkq import Chunk, Client
from darkq_local.server_binary import find_server
from support.cluster import running_cluster

_START_TIMEOUT_S = 20.0
_AT_ONCE = 200
_LOOK_S = 0.02


class Used(NamedTuple):
    """The resources used since a start; servers and workers are sums."""

    at_s: float
    workers_cpu_s: float
    redis_cpu_s: float
    reader_cpu_s: float
    machine_cpu_s: float
    scripts: float
    claims: float
    """Claims and renewals: the scripts that ask for the time."""
    reads: float
    events: float
    ended: float
    """Jobs: each is taken out of its queue once."""
    bytes_in: float
    bytes_out: float

    def since(self, before: Used) -> Used:
        """Return the resources used since then, per second."""
        took_s = self.at_s - before.at_s
        return Used(took_s, *((a - b) / took_s for a, b in zip(self[1:], before[1:], strict=True)))

    @property
    def appends(self) -> float:
        """Return the scripts that wrote events, if no job begins or ends."""
        return self.scripts - self.claims

    @property
    def flushes(self) -> float:
        """Return the number of flushes, if no job begins or ends."""
        return self.reads - self.claims


class Fleet:
    """A client, the workers' process ids, and a connection to every server."""

    def __init__(
        self, redis_url: str, client: Client, servers: Sequence[Redis], pids: Sequence[int]
    ) -> None:
        self.redis_url = redis_url
        self.client = client
        self.servers = servers
        self.pids = pids

    async def put(self, prompt: str, count: int) -> None:
        """Enqueue jobs one by one, so that each has a partition of its own."""
        for start in range(0, count, _AT_ONCE):
            some = range(start, min(count, start + _AT_ONCE))
            await asyncio.gather(*(self.client.enqueue(prompt) for _ in some))

    async def read(self, prompt: str) -> int:
        """Run a job, and count its chunks as they come."""
        job, count = await self.client.enqueue(prompt), 0
        async for event in job.events():
            if isinstance(event, Chunk):
                count += event.merged
        return count

    async def used(self) -> Used:
        """Return the resources used so far."""
        infos = [await server.info("everything") for server in self.servers]

        def total(*fields: str) -> float:
            return sum(float(info[field]) for info in infos for field in fields)

        def calls(command: str) -> float:
            found = (info.get(f"cmdstat_{command}", {"calls": 0}) for info in infos)
            return sum(float(each["calls"]) for each in found)

        return Used(
            time.monotonic(),
            sum(map(cpu_s, self.pids)),
            total("used_cpu_user", "used_cpu_sys"),
            time.process_time(),
            machine_cpu_s(),
            calls("evalsha"),
            calls("time"),
            total("total_reads_processed"),
            calls("xadd"),
            calls("zrem"),
            total("total_net_input_bytes"),
            total("total_net_output_bytes"),
        )

    async def watch(self, window_s: float) -> Used:
        """Return the resources used per second, measured for a duration from now on."""
        before = await self.used()
        await asyncio.sleep(window_s)
        return (await self.used()).since(before)

    async def ended(self, jobs: int, since: Used) -> Used:
        """Wait until a number of further jobs have ended; return the resources used."""
        while (now := await self.used()).ended < since.ended + jobs:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        return now

    def memory_bytes(self) -> int:
        return sum(map(rss_bytes, self.pids))

    async def connections(self) -> int:
        """Return how many connections the fullest server has."""
        clients = [await server.info("clients") for server in self.servers]
        return max(int(found["connected_clients"]) for found in clients)


@asynccontextmanager
async def fleet(
    upstream_url: str,
    *,
    workers: int = 1,
    partitions: int = 1,
    masters: int = 0,
    jobs: int = 100,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Fleet]:
    """Run workers on a server, or on a cluster of so many masters, and wait for all of them."""
    async with AsyncExitStack() as stack:
        if masters:
            cluster = await stack.enter_async_context(
                running_cluster(
                    find_server().path, "--appendonly", "no", masters=masters, replicas=0
                )
            )
            url, ports = cluster.url, [node.port for node in cluster.nodes]
            servers = [Redis(port=port) for port in ports]
        else:
            url = stack.enter_context(redis_server())
            servers = [Redis.from_url(url)]
        for server in servers:
            stack.push_async_callback(server.aclose)
        client = Client(settings=settings_of(url, partitions=partitions))
        await stack.enter_async_context(client)
        environment = {
            "DARKQ_REDIS_URL": url,
            "DARKQ_DARKAI_URL": upstream_url,
            "DARKQ_PARTITIONS": str(partitions),
            "DARKQ_WORKER_JOBS": str(jobs),
            "DARKQ_WORKER_RESERVED_INTERACTIVE": "0",
            "DARKQ_WORKER_LOG_LEVEL": "WARNING",
            **(settings or {}),
        }
        command = (sys.executable, "-c", "from darkq_worker.main import main; main()")
        pids = []
        for number in range(workers):
            role = (UNDER_TEST, THE_REST)[number % 2]
            process = stack.enter_context(child(*command, role=role, environment=environment))
            pids.append(process.pid)
        await _ready(client, workers)
        yield Fleet(url, client, servers, pids)


async def _ready(client: Client, workers: int) -> None:
    async with asyncio.timeout(_START_TIMEOUT_S):
        while len(await client.workers()) < workers:  # noqa: ASYNC110 (they are processes)
            await asyncio.sleep(0.05)


def move(pids: Sequence[int], role: int) -> None:
    """Move processes to the core of a role."""
    with on_core(role):
        cores = os.sched_getaffinity(0)
    for pid in pids:
        os.sched_setaffinity(pid, cores)


@contextmanager
def frozen_all(pids: Sequence[int]) -> Iterator[None]:
    """Stop processes for the length of the block."""
    with ExitStack() as stack:
        for pid in pids:
            stack.enter_context(frozen(pid))
        yield
