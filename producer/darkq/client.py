"""What a web app imports: put jobs in, and come back to them.

async with Client() as client:
    job = await client.enqueue("Write a haiku about queues.")
    async for piece in job.text():
        print(piece, end="", flush=True)
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from typing import Self, TypeVar

from msgspec.structs import asdict
from pydantic import SecretStr
from redis.asyncio import Redis

from darkq import failures
from darkq.connection import pool, speaking_darkq
from darkq.errors import InvalidJob
from darkq.failures import FailedJob
from darkq.handle import JobHandle
from darkq.job import Job, Priority, Prompt
from darkq.keys import JobKeys
from darkq.live import Live
from darkq.orders import Orders
from darkq.settings import Settings
from darkq.workers import live_workers

T = TypeVar("T")


class Client:
    """A producer's and reader's connection to darkq. Safe to share among tasks of one loop.

    Connects on first use. Close it with `aclose()`, or use it as a context manager.
    """

    def __init__(self, redis_url: str | None = None, *, settings: Settings | None = None) -> None:
        """Take the URL given, else `DARKQ_REDIS_URL`, else the embedded server that runs here.

        Raises `ConfigurationError`.
        """
        settings = settings or Settings.load()
        if redis_url is not None:
            settings = settings.model_copy(update={"redis_url": SecretStr(redis_url)})
        self._settings = settings
        connections = pool(settings)
        self._redis = Redis.from_pool(connections)
        self._live = Live(connections, patience_s=settings.redis_patience_s)
        self._orders = Orders(self._redis, settings)

    async def enqueue(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        upstream: str | None = None,
        priority: Priority = "interactive",
        timeout_s: float | None = None,
        tries: int | None = None,
        metadata: Mapping[str, str] | None = None,
        proxy: str | None = None,
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Store a job and return its handle. Once this returns, the job will be run.

        A prompt is a string or a list of messages. With an idempotency key, a second call
        with the same content returns the first one's job, as long as that is remembered
        (`DARKQ_JOB_TTL_S`). Concurrent calls share round trips. Cancelled, the job may or may
        not have been stored.

        Raises `InvalidJob` before anything is stored, `IdempotencyConflict` for a key used
        with another content, `QueueFull`, `RedisUnavailable`.
        """
        job = Job.create(
            prompt,
            model=model,
            upstream=upstream,
            priority=priority,
            timeout_s=timeout_s,
            tries=tries,
            metadata=metadata,
            proxy=proxy,
        )
        keys, duplicate = await self._orders.put(job, idempotency_key)
        return self._handle(keys, duplicate=duplicate)

    async def enqueue_many(
        self, jobs: Iterable[Prompt | Job] | AsyncIterable[Prompt | Job]
    ) -> list[JobHandle]:
        """Store many jobs, a few hundred per round trip, and return their handles in order.

        Takes prompts and `Job.create(…)`s from any iterable, async ones too. Every one is
        checked before the first is stored. Raises `InvalidJob`, whose `field` begins with the
        item's number, `QueueFull`, which names those that were stored, and `RedisUnavailable`;
        cancelled or failed, some may have been stored.
        """
        checked = [job async for job in _checked(jobs)]
        return [self._handle(keys) for keys in await self._orders.put_many(checked)]

    def job(self, job_id: str) -> JobHandle:
        """Return the handle of a job, known or not, without asking Redis.

        Raises `JobNotFound` for a string that can be no id.
        """
        return self._handle(JobKeys.parse(job_id))

    async def failed(self, limit: int | None = None) -> AsyncGenerator[FailedJob, None]:
        """Yield the jobs that have failed, the latest first within a partition.

        At most `limit` of them; None means all that are kept (`DARKQ_FAILED_TTL_S`). Raises
        `RedisUnavailable`.
        """
        found = failures.listed(self._redis, range(self._settings.partitions))
        async with speaking_darkq(), aclosing(found) as pages:
            left = limit
            async for page in pages:
                for job in page[:left]:
                    yield job
                if left is not None and (left := left - len(page)) <= 0:
                    return

    async def workers(self) -> list[str]:
        """Return the ids of the workers that are alive now: `<host>:<pid>:<random>`.

        One that was killed is listed for some seconds more. Raises `RedisUnavailable`.
        """
        async with speaking_darkq():
            return await live_workers(self._redis)

    async def aclose(self) -> None:
        """Send what waits, and close all connections."""
        await self._orders.aclose()
        await self._live.aclose()
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _handle(self, keys: JobKeys, *, duplicate: bool = False) -> JobHandle:
        return JobHandle(
            keys,
            self._redis,
            self._live,
            self._settings,
            duplicate=duplicate,
        )


async def _checked(
    jobs: Iterable[Prompt | Job] | AsyncIterable[Prompt | Job],
) -> AsyncIterator[Job]:
    """Make a checked job of each item. Raises `InvalidJob` with the item's number."""
    if isinstance(jobs, str | bytes | Mapping) or not isinstance(jobs, Iterable | AsyncIterable):
        raise InvalidJob("jobs", f"must be many prompts, not one {type(jobs).__name__}")
    items = jobs if isinstance(jobs, AsyncIterable) else _as_async(jobs)
    number = 0
    async for item in items:
        try:
            # A `Job` may have been made without `create`.
            yield Job.create(**asdict(item)) if isinstance(item, Job) else Job.create(item)
        except InvalidJob as error:
            raise InvalidJob(f"jobs[{number}].{error.field}", error.reason) from None
        number += 1


async def _as_async(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item
