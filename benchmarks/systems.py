"""darkq and the naive arq worker, behind one interface for all benchmarks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeAlias

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.constants import default_queue_name, in_progress_key_prefix
from arq.jobs import Job as ArqJob
from redis.asyncio import Redis

from benchmarks import naive
from benchmarks.processes import child, module, redis_server
from darkq import Chunk, Client, Settings
from darkq import event as ev
from darkq.protocol.keys import PartitionKeys
from darkq_worker.leases import MAX_RENEWALS_PER_CALL, Leases

Seen: TypeAlias = Callable[[str, int], object]
"""Takes a text and how many of the upstream's chunks it holds."""

_HOUR_S = 3600.0


class System(Protocol):
    """A queue with one worker process, which `pid` names (0: none runs)."""

    name: str
    pid: int

    @property
    def redis(self) -> Redis: ...

    async def ask(self, prompt: str) -> str:
        """Run a job and return its text."""
        ...

    async def put(self, prompt: str, count: int) -> None:
        """Enqueue jobs in the fastest way."""
        ...

    async def consume(self, prompt: str, streams: int, chunks: int, seen: Seen) -> None:
        """Run jobs with a number of chunks each, and read all of them live."""
        ...

    async def waiting(self) -> int:
        """Return the number of jobs that wait or run."""
        ...

    async def occupy_fleet(self, count: int) -> None:
        """Create jobs that seem to run on other workers during the benchmark."""
        ...


def settings_of(redis_url: str, *, partitions: int = 1) -> Settings:
    """Return the default settings; a file `.env` is ignored."""
    return Settings(_env_file=None, redis_url=redis_url, partitions=partitions)  # pyright: ignore[reportCallIssue]


class Darkq:
    """darkq, read through the Python tail."""

    name = "darkq"

    def __init__(self, redis_url: str, pid: int = 0) -> None:
        self.pid = pid
        self.redis_url = redis_url
        self.redis = Redis.from_url(redis_url)
        self.client = Client(settings=settings_of(redis_url))

    async def ask(self, prompt: str) -> str:
        return (await (await self.client.enqueue(prompt)).result()).text

    async def put(self, prompt: str, count: int) -> None:
        await self.client.enqueue_many([prompt] * count)

    async def consume(self, prompt: str, streams: int, chunks: int, seen: Seen) -> None:
        async def read() -> int:
            job, count = await self.client.enqueue(prompt), 0
            async for event in job.events():
                if isinstance(event, Chunk):
                    count += event.merged
                    seen(event.text, event.merged)
            return count

        counts = await asyncio.gather(*(read() for _ in range(streams)))
        assert counts == [chunks] * streams, "chunks are missing"

    async def consume_channel(self, prompt: str, streams: int, chunks: int, seen: Seen) -> None:
        """The same from the bare channel, without the tail."""

        def decoded(message: bytes) -> int:
            event = ev.decode(message)
            if not isinstance(event, Chunk):
                return 0
            seen(event.text, event.merged)
            return event.merged

        async with listening(self.redis_url, "darkq:live:*", decoded, streams * chunks):
            await self.put(prompt, streams)

    async def waiting(self) -> int:
        return int(await self.redis.zcard(PartitionKeys(0).queue("interactive")))

    async def occupy_fleet(self, count: int) -> None:
        elsewhere = Leases(self.redis, "elsewhere", lease_s=_HOUR_S, job_ttl_s=_HOUR_S)
        with frozen(self.pid):
            await self.put("held elsewhere", count)
            claimed = 0
            while claimed < count:
                slots = min(MAX_RENEWALS_PER_CALL, count - claimed)
                claims, _ = await elsewhere.claim(0, slots=slots, bulk_slots=0)
                claimed += len(claims)

    async def aclose(self) -> None:
        await self.client.aclose()
        await self.redis.aclose()


class Naive:
    """Stock arq, read from the channel it publishes to."""

    name = "naive arq"

    def __init__(self, redis_url: str, arq: ArqRedis, pid: int = 0) -> None:
        self.pid = pid
        self.redis_url = redis_url
        self.redis = self.arq = arq

    async def enqueue(self, prompt: str) -> ArqJob:
        job = await self.arq.enqueue_job("generate", prompt)
        assert job is not None
        return job

    async def ask(self, prompt: str) -> str:
        return str(await (await self.enqueue(prompt)).result(poll_delay=0.05))

    async def put(self, prompt: str, count: int) -> None:
        for start in range(0, count, 100):
            await asyncio.gather(*(self.enqueue(prompt) for _ in range(min(100, count - start))))

    async def consume(self, prompt: str, streams: int, chunks: int, seen: Seen) -> None:
        def decoded(message: bytes) -> int:
            seen(message.decode(), 1)
            return 1

        async with listening(self.redis_url, naive.CHANNELS + "*", decoded, streams * chunks):
            await self.put(prompt, streams)

    async def waiting(self) -> int:
        return int(await self.redis.zcard(default_queue_name))

    async def occupy_fleet(self, count: int) -> None:
        with frozen(self.pid):
            await self.put("held elsewhere", count)
            pipe = self.redis.pipeline(transaction=False)
            for job_id in await self.redis.zrange(default_queue_name, 0, -1):
                pipe.set(in_progress_key_prefix + job_id.decode(), b"1", ex=int(_HOUR_S))
            await pipe.execute()

    async def aclose(self) -> None:
        await self.arq.aclose()


@asynccontextmanager
async def darkq(
    url: str = "", *, jobs: int = 100, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Darkq]:
    """Run Redis and darkq; a worker too, if there is an upstream for it."""
    command = [sys.executable, "-c", "from darkq_worker.main import main; main()"]
    environment = {
        "DARKQ_DARKAI_URL": url,
        "DARKQ_WORKER_JOBS": str(jobs),
        "DARKQ_WORKER_RESERVED_INTERACTIVE": "0",
        "DARKQ_WORKER_LOG_LEVEL": "WARNING",
        **(settings or {}),
    }
    with redis_server() as redis_url:
        environment["DARKQ_REDIS_URL"] = redis_url
        system = Darkq(redis_url)
        try:
            if url:
                with child(*command, environment=environment) as process:
                    system.pid = process.pid
                    await system.ask("burst 1")
                    yield system
            else:
                yield system
        finally:
            await system.aclose()


@asynccontextmanager
async def naive_arq(url: str = "", *, jobs: int = 100) -> AsyncIterator[Naive]:
    """Run Redis and stock arq; a worker too, if there is an upstream for it."""
    with redis_server() as redis_url:
        arq = await create_pool(
            RedisSettings.from_dsn(redis_url),
            job_serializer=naive.serialize,
            job_deserializer=json.loads,
        )
        system = Naive(redis_url, arq)
        try:
            if url:
                with child(*module("naive", redis_url, url, jobs)) as process:
                    system.pid = process.pid
                    await system.ask("burst 1")
                    yield system
            else:
                yield system
        finally:
            await system.aclose()


@asynccontextmanager
async def listening(
    redis_url: str, pattern: str, decoded: Callable[[bytes], int], total: int
) -> AsyncIterator[None]:
    """Subscribe; on leaving, wait until `decoded` has counted `total` of what was published."""
    async with Redis.from_url(redis_url) as redis, redis.pubsub() as pubsub:
        await pubsub.psubscribe(pattern)
        await pubsub.get_message(timeout=5)

        async def count() -> None:
            left = total
            async for message in pubsub.listen():
                if message["type"] == "pmessage":
                    left -= decoded(message["data"])
                if left <= 0:
                    return

        counting = asyncio.create_task(count())
        try:
            yield
            await counting
        finally:
            counting.cancel()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def all_done(system: System) -> None:
    """Wait until no job waits or runs."""
    while await system.waiting():  # noqa: ASYNC110 (the queue is in another process)
        await asyncio.sleep(0.002)
