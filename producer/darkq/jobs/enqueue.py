"""How jobs get into Redis: a few hundred per round trip, each stored once however often sent."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import IdempotencyConflict, InvalidJob, QueueClosed, QueueFull, RedisFull
from darkq.event import Cursor
from darkq.jobs.tenant_jobs import MAX_LISTED
from darkq.protocol.job import NOT_PLAIN, Job, check_idempotency_key
from darkq.protocol.keys import (
    PRIORITIES,
    BatchKeys,
    JobKeys,
    partition_of,
    queue,
)
from darkq.protocol.record import Arguments, JobRecord, encode
from darkq.redis import scripts
from darkq.redis.group_commit import MAX_BYTES_PER_CALL, GroupCommit
from darkq.redis.pool import speaking_darkq
from darkq.redis.scripts import BatchLines, EnqueueOutcome, NewJob, Receipt
from darkq.settings.settings import Settings
from darkq.telemetry.tracing import NOTHING, TraceContext, enqueueing

MAX_JOBS_PER_CALL = 500
_REFUSED = ("full", "closed", "memory")
_NO_ROOM = ("full", "wait")


class _Order(NewJob):
    """A job on its way into Redis, encoded: what cannot be is its own caller's error alone."""

    __slots__ = ()

    @classmethod
    def of(
        cls,
        keys: JobKeys,
        job: Job,
        carried: TraceContext = NOTHING,
        idempotency_key: str | None = None,
    ) -> _Order:
        """Encode a job. Raises `InvalidJob` for one made by hand that is no plain data."""
        record = JobRecord(
            k=Arguments(job),
            et=int(time.time() * 1000),
            traceparent=carried.traceparent or UNSET,
            tracestate=carried.tracestate or UNSET,
        )
        try:
            data = encode(record)
            digest = _digest(job) if idempotency_key is not None else ""
        except (TypeError, ValueError, RecursionError):
            raise InvalidJob("job", NOT_PLAIN) from None
        if job.priority not in PRIORITIES or type(job.tenant) not in (str, type(None)):
            raise InvalidJob("job", NOT_PLAIN)
        return cls(keys, job.priority, job.tenant, data, idempotency_key, digest)

    def size(self) -> int:
        return len(self.record)

    def in_partition(self, partition: int) -> _Order:
        return self._replace(keys=self.keys._replace(partition=partition))

    def __repr__(self) -> str:
        return f"_Order({self.keys.public_id})"


class Orders:
    """A client's jobs on their way into Redis. Concurrent calls share round trips."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        # One queue of orders per partition: a script call touches one partition only.
        self._waiting = [
            GroupCommit(self._store, max_items=MAX_JOBS_PER_CALL, size=_Order.size)
            for _ in range(settings.partitions)
        ]

    async def put(self, job: Job, idempotency_key: str | None) -> tuple[JobKeys, bool]:
        """Store a job; return its keys, and whether it was there before.

        Raises `InvalidJob` for a key that can be none, `IdempotencyConflict`, `QueueFull`,
        `QueueClosed`, `RedisFull`, `RedisUnavailable`.
        """
        with enqueueing(job.priority) as span:
            order = self._order(job, idempotency_key, span.carried)
            verdict, keys = await self._waiting[order.keys.partition].submit(order)
            if verdict == "conflict":
                raise IdempotencyConflict(idempotency_key or "", keys.public_id)
            if verdict in _REFUSED:
                raise self._refusal(verdict, order)
            span.stored(keys.public_id, duplicate=keys != order.keys)
            return keys, keys != order.keys

    async def put_many(self, jobs: Sequence[Job], seed: str | None = None) -> list[JobKeys]:
        """Store jobs and return their keys, in order.

        Their ids follow from the seed, if there is one: those that are there stay as they are.

        Raises `QueueFull`, `QueueClosed` and `RedisFull`, which name those that were stored, and
        `RedisUnavailable`.
        """
        with enqueueing(count=len(jobs)) as span:
            return await self._put_many(jobs, span.carried, seed)

    async def _put_many(
        self, jobs: Sequence[Job], carried: TraceContext, seed: str | None
    ) -> list[JobKeys]:
        stored: list[JobKeys] = []
        orders_of_all = (
            _Order.of(_keys_of(seed, number), job, carried) for number, job in enumerate(jobs)
        )
        for call in _in_calls(orders_of_all):
            partition = self._any_partition() if seed is None else self._partition_of(seed)
            orders = [order.in_partition(partition) for order in call]
            try:
                receipts = await self._store(orders)
            except RedisFull as error:
                raise RedisFull([keys.public_id for keys in stored]) from error
            stored += [keys for verdict, keys in receipts if verdict not in _REFUSED]
            for order, (verdict, _) in zip(orders, receipts, strict=True):
                if verdict in _REFUSED:
                    raise self._refusal(verdict, order, [keys.public_id for keys in stored])
        return stored

    async def put_lines(
        self, batch: BatchKeys, lines: Sequence[tuple[int, Job]]
    ) -> list[EnqueueOutcome]:
        """Store numbered jobs of a batch, in their order; return the verdict on each.

        `enqueue.lua` names the verdicts. What comes behind a line that has no room has none
        either, and is not sent. Raises `RedisUnavailable`.
        """
        with enqueueing(count=len(lines)) as span:
            orders = (_Order.of(batch.job(number), job, span.carried) for number, job in lines)
            verdicts: list[EnqueueOutcome] = []
            for some in _in_calls(orders):
                sent = lines[len(verdicts) : len(verdicts) + len(some)]
                numbers = [number for number, _ in sent]
                receipts = await self._store(some, BatchLines(batch, numbers))
                verdicts.extend(receipt.outcome for receipt in receipts)
                if verdicts[-1] in _NO_ROOM:
                    break
            verdicts += verdicts[-1:] * (len(lines) - len(verdicts))
            return verdicts

    async def aclose(self) -> None:
        """Send what waits."""
        for waiting in self._waiting:
            await waiting.aclose()

    def _order(self, job: Job, idempotency_key: str | None, carried: TraceContext) -> _Order:
        if idempotency_key is None:
            return _Order.of(JobKeys.new(self._any_partition()), job, carried)
        idempotency_key = check_idempotency_key(idempotency_key)
        partition = partition_of(idempotency_key, self._settings.partitions, job.tenant)
        return _Order.of(JobKeys.new(partition), job, carried, idempotency_key)

    async def _store(
        self, orders: Sequence[_Order], lines: BatchLines | None = None
    ) -> list[Receipt]:
        """Run the script for orders of one partition. Sent twice it stores once."""
        now_ms = int(time.time() * 1000)
        async with speaking_darkq():
            return await scripts.enqueue(
                self._redis,
                orders,
                event=ev.encode(ev.Queued(id=str(Cursor(0, 1)), at_ms=now_ms)),
                job_ttl_s=self._settings.job_ttl_s,
                queue_max_jobs=self._settings.queue_max_jobs,
                max_listed=MAX_LISTED,
                lines=lines,
            )

    def _partition_of(self, seed: str) -> int:
        return int(seed, 16) % self._settings.partitions

    def _any_partition(self) -> int:
        return secrets.randbelow(self._settings.partitions)

    def _refusal(
        self, verdict: EnqueueOutcome, order: _Order, stored_ids: Sequence[str] = ()
    ) -> QueueFull | QueueClosed | RedisFull:
        if verdict == "memory":
            return RedisFull(stored_ids)
        name = queue(order.keys.partition, order.priority)
        if verdict == "closed":
            return QueueClosed(name, stored_ids)
        return QueueFull(name, self._settings.queue_max_jobs, stored_ids)


def _in_calls(orders: Iterable[_Order]) -> Iterator[list[_Order]]:
    """Cut orders into calls of a bounded number of jobs and bytes, each encoded when it is due."""
    call: list[_Order] = []
    call_bytes = 0
    for order in orders:
        call_bytes += order.size()
        if call and (len(call) == MAX_JOBS_PER_CALL or call_bytes > MAX_BYTES_PER_CALL):
            yield call
            call, call_bytes = [], order.size()
        call.append(order)
    if call:
        yield call


def _keys_of(seed: str | None, number: int) -> JobKeys:
    """Return keys of a job whose partition is not known yet."""
    if seed is None:
        return JobKeys.new(0)
    return JobKeys(0, hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:32])


def _digest(job: Job) -> str:
    """Return what stands for a job's content: the JSON that has the prompt first.

    In that order all versions have kept it; another would make every key a conflict.
    """
    prompt = msgspec.json.encode(job.prompt, order="deterministic")
    others = msgspec.json.encode(msgspec.structs.replace(job, prompt=""), order="deterministic")
    others = others.removeprefix(b"{").removesuffix(b'"prompt":""}')  # with a comma at the end
    return hashlib.sha256(b'{"prompt":' + prompt + (b"," + others)[:-1] + b"}").hexdigest()
