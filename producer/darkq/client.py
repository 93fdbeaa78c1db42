"""What a web app imports: put jobs in, and come back to them.

async with Client() as client:
    job = await client.enqueue("Write a haiku about queues.")
    async for piece in job.text():
        print(piece, end="", flush=True)
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from typing import NamedTuple, Self, TypeVar

import msgspec
from msgspec.structs import asdict
from pydantic import SecretStr
from redis.asyncio import Redis

from darkq import event as ev
from darkq import failures, scripts
from darkq.connection import pool, speaking_darkq
from darkq.errors import IdempotencyConflict, InvalidJob, QueueFull
from darkq.event import Cursor
from darkq.failures import FailedJob
from darkq.group_commit import GroupCommit
from darkq.handle import JobHandle
from darkq.job import Job, Priority, Prompt
from darkq.keys import JobKeys, idempotency, partition_of, queue, wake
from darkq.live import Live
from darkq.record import Arguments, JobRecord, encode
from darkq.settings import Settings
from darkq.workers import live_workers

MAX_JOBS_PER_CALL = 500
MAX_IDEMPOTENCY_KEY_CHARS = 255

T = TypeVar("T")


class _Order(NamedTuple):
    """A job on its way into Redis."""

    keys: JobKeys
    job: Job
    idempotency_key: str | None


class _Receipt(NamedTuple):
    verdict: bytes
    keys: JobKeys


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
        # One queue of orders per partition: a script call touches one partition only.
        self._orders = [
            GroupCommit(self._store, max_items=MAX_JOBS_PER_CALL)
            for _ in range(settings.partitions)
        ]

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
        order = self._order(job, idempotency_key)
        verdict, keys = await self._orders[order.keys.partition].submit(order)
        if verdict == b"conflict":
            raise IdempotencyConflict(idempotency_key or "", keys.public_id)
        if verdict == b"full":
            raise self._full(order)
        return self._handle(keys, duplicate=keys != order.keys)

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
        handles: list[JobHandle] = []
        for start in range(0, len(checked), MAX_JOBS_PER_CALL):
            partition = self._any_partition()
            orders = [
                _Order(JobKeys.new(partition), job, None)
                for job in checked[start : start + MAX_JOBS_PER_CALL]
            ]
            receipts = await self._store(orders)
            full = [verdict == b"full" for verdict, _ in receipts]
            stored = (order for order, refused in zip(orders, full, strict=True) if not refused)
            handles += [self._handle(order.keys) for order in stored]
            if any(full):
                raise self._full(orders[full.index(True)], [handle.id for handle in handles])
        return handles

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
        for orders in self._orders:
            await orders.aclose()
        await self._live.aclose()
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _order(self, job: Job, idempotency_key: str | None) -> _Order:
        if idempotency_key is None:
            return _Order(JobKeys.new(self._any_partition()), job, None)
        _check_key(idempotency_key)
        partition = partition_of(idempotency_key, self._settings.partitions)
        return _Order(JobKeys.new(partition), job, idempotency_key)

    async def _store(self, orders: Sequence[_Order]) -> list[_Receipt]:
        """Run the script for orders of one partition. Sent twice it stores once."""
        now_ms = int(time.time() * 1000)
        keys: list[str] = []
        args: list[str | bytes | int] = [
            wake(orders[0].keys.partition),
            int(self._settings.job_ttl_s * 1000),
            self._settings.queue_max_jobs,
        ]
        queued = ev.encode(ev.Queued(id=str(Cursor(0, 1)), at_ms=now_ms))
        for order in orders:
            names = order.keys
            # A key of its own, never written, stands in where there is no idempotency key.
            remembered = order.idempotency_key or names.random
            keys += [
                queue(names.partition, order.job.priority),
                names.job,
                names.result,
                names.events,
                idempotency(names.partition, remembered),
            ]
            record = JobRecord(k=Arguments(order.job), et=now_ms)
            digest = _digest(order.job) if order.idempotency_key else ""
            args += [names.arq_id, encode(record), queued, digest]
        async with speaking_darkq():
            replies = await scripts.enqueue(self._redis, keys, args)
        return [
            _Receipt(verdict, JobKeys.from_arq_id(arq_id.decode()))
            for verdict, arq_id in zip(replies[::2], replies[1::2], strict=True)
        ]

    def _any_partition(self) -> int:
        return secrets.randbelow(self._settings.partitions)

    def _handle(self, keys: JobKeys, *, duplicate: bool = False) -> JobHandle:
        return JobHandle(
            keys,
            self._redis,
            self._live,
            self._settings,
            duplicate=duplicate,
        )

    def _full(self, order: _Order, stored_ids: Sequence[str] = ()) -> QueueFull:
        name = queue(order.keys.partition, order.job.priority)
        return QueueFull(name, self._settings.queue_max_jobs, stored_ids)


def _check_key(key: str) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARS:
        reason = f"must be a string of 1 to {MAX_IDEMPOTENCY_KEY_CHARS} characters"
        raise InvalidJob("idempotency_key", reason)
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidJob("idempotency_key", "has a lone surrogate") from None


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


def _digest(job: Job) -> str:
    return hashlib.sha256(msgspec.json.encode(job, order="deterministic")).hexdigest()
