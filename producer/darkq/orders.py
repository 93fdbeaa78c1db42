"""How jobs get into Redis: a few hundred per round trip, each stored once however often sent."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from darkq import event as ev
from darkq import scripts
from darkq.connection import speaking_darkq
from darkq.errors import IdempotencyConflict, InvalidJob, QueueFull
from darkq.event import Cursor
from darkq.group_commit import GroupCommit
from darkq.job import Job
from darkq.keys import JobKeys, idempotency, partition_of, queue, wake
from darkq.record import Arguments, JobRecord, encode
from darkq.settings import Settings

MAX_JOBS_PER_CALL = 500
MAX_IDEMPOTENCY_KEY_CHARS = 255


class _Order(NamedTuple):
    """A job on its way into Redis."""

    keys: JobKeys
    job: Job
    idempotency_key: str | None


class _Receipt(NamedTuple):
    verdict: bytes
    keys: JobKeys


class Orders:
    """A client's jobs on their way into Redis. Concurrent calls share round trips."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        # One queue of orders per partition: a script call touches one partition only.
        self._waiting = [
            GroupCommit(self._store, max_items=MAX_JOBS_PER_CALL)
            for _ in range(settings.partitions)
        ]

    async def put(self, job: Job, idempotency_key: str | None) -> tuple[JobKeys, bool]:
        """Store a job; return its keys, and whether it was there before.

        Raises `InvalidJob` for a key that can be none, `IdempotencyConflict`, `QueueFull`,
        `RedisUnavailable`.
        """
        order = self._order(job, idempotency_key)
        verdict, keys = await self._waiting[order.keys.partition].submit(order)
        if verdict == b"conflict":
            raise IdempotencyConflict(idempotency_key or "", keys.public_id)
        if verdict == b"full":
            raise self._full(order)
        return keys, keys != order.keys

    async def put_many(self, jobs: Sequence[Job]) -> list[JobKeys]:
        """Store jobs and return their keys, in order.

        Raises `QueueFull`, which names those that were stored, and `RedisUnavailable`.
        """
        stored: list[JobKeys] = []
        for start in range(0, len(jobs), MAX_JOBS_PER_CALL):
            partition = self._any_partition()
            orders = [
                _Order(JobKeys.new(partition), job, None)
                for job in jobs[start : start + MAX_JOBS_PER_CALL]
            ]
            receipts = await self._store(orders)
            full = [verdict == b"full" for verdict, _ in receipts]
            stored += [o.keys for o, refused in zip(orders, full, strict=True) if not refused]
            if any(full):
                raise self._full(orders[full.index(True)], [keys.public_id for keys in stored])
        return stored

    async def aclose(self) -> None:
        """Send what waits."""
        for waiting in self._waiting:
            await waiting.aclose()

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


def _digest(job: Job) -> str:
    return hashlib.sha256(msgspec.json.encode(job, order="deterministic")).hexdigest()
