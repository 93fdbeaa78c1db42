"""Enqueueing: a few hundred jobs per round trip, each stored once even if it is sent twice."""

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
from darkq.jobs.job_lists import MAX_LISTED
from darkq.protocol.job import NOT_PLAIN, Job, check_idempotency_key
from darkq.protocol.keys import PRIORITIES, BatchKeys, JobKeys, PartitionKeys, choose_partition
from darkq.protocol.record import Arguments, JobRecord, encode
from darkq.redis import scripts
from darkq.redis.group_commit import MAX_BYTES_PER_CALL, GroupCommit
from darkq.redis.pool import speaking_darkq
from darkq.redis.scripts import BatchLines, EnqueueOutcome, NewJob, Receipt
from darkq.settings.settings import Settings
from darkq.telemetry.tracing import NO_CONTEXT, TraceContext, enqueue_span

MAX_JOBS_PER_CALL = 500
_MOST_BYTES_PER_CHAR = 4
_REFUSED = ("full", "closed", "memory")
_NO_ROOM = ("full", "wait")


class _EncodedJob(NewJob):
    """A job that is encoded before it is grouped with others: an error is only its caller's."""

    __slots__ = ()

    @classmethod
    def encode(
        cls,
        keys: JobKeys,
        job: Job,
        context: TraceContext = NO_CONTEXT,
        idempotency_key: str | None = None,
    ) -> _EncodedJob:
        """Encode a job. Raises `InvalidJob` if it is not plain data: `Job(…)` does not validate."""
        record = JobRecord(
            k=Arguments(job),
            et=int(time.time() * 1000),
            h=1,
            traceparent=context.traceparent or UNSET,
            tracestate=context.tracestate or UNSET,
        )
        try:
            data = encode(record)
            digest = _compute_digest(job) if idempotency_key is not None else ""
        except (TypeError, ValueError, RecursionError):
            raise InvalidJob("job", NOT_PLAIN) from None
        if job.priority not in PRIORITIES or type(job.tenant) not in (str, type(None)):
            raise InvalidJob("job", NOT_PLAIN)
        return cls(keys, job.priority, job.tenant, data, idempotency_key, digest)

    def size(self) -> int:
        return len(self.record)

    def in_partition(self, partition: int) -> _EncodedJob:
        return self._replace(keys=self.keys._replace(partition=partition))

    def __repr__(self) -> str:
        return f"_EncodedJob({self.keys.public_id})"


class Enqueuer:
    """Stores the jobs of a client. Concurrent calls share round trips."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        # One per partition: the keys of a script call must be of one partition.
        self._waiting = [
            GroupCommit(self._store, max_items=MAX_JOBS_PER_CALL, size=_EncodedJob.size)
            for _ in range(settings.partitions)
        ]

    async def put(self, job: Job, idempotency_key: str | None) -> tuple[JobKeys, bool]:
        """Store a job; return its keys, and whether it already existed.

        Raises `InvalidJob` for an invalid key, `IdempotencyConflict`, `QueueFull`, `QueueClosed`,
        `RedisFull`, `RedisUnavailable`.
        """
        self._check_size(job)
        with enqueue_span(job.priority) as span:
            new = self._encode(job, idempotency_key, span.carried)
            outcome, keys = await self._waiting[new.keys.partition].submit(new)
            if outcome == "conflict":
                raise IdempotencyConflict(idempotency_key or "", keys.public_id)
            if outcome in _REFUSED:
                raise self._build_refusal(outcome, new)
            duplicate = keys != new.keys
            span.stored(keys.public_id, duplicate=duplicate)
            return keys, duplicate

    async def put_many(self, jobs: Sequence[Job], seed: str | None = None) -> list[JobKeys]:
        """Store jobs and return their keys, in order.

        With a seed, their ids are derived from it, and existing jobs are not changed. Raises
        `QueueFull`, `QueueClosed` and `RedisFull`, which have the ids of the stored jobs, and
        `RedisUnavailable`.
        """
        for number, job in enumerate(jobs):
            self._check_size(job, f"jobs[{number}].")
        with enqueue_span(count=len(jobs)) as span:
            return await self._put_many(jobs, span.carried, seed)

    async def _put_many(
        self, jobs: Sequence[Job], context: TraceContext, seed: str | None
    ) -> list[JobKeys]:
        stored: list[JobKeys] = []
        encoded = (
            _EncodedJob.encode(_derive_keys(seed, number), job, context)
            for number, job in enumerate(jobs)
        )
        for call in _split_calls(encoded):
            partition = self._pick_partition(seed)
            new_jobs = [new.in_partition(partition) for new in call]
            try:
                receipts = await self._store(new_jobs)
            except RedisFull as error:
                raise RedisFull([keys.public_id for keys in stored]) from error
            stored += [keys for outcome, keys in receipts if outcome not in _REFUSED]
            for new, (outcome, _) in zip(new_jobs, receipts, strict=True):
                if outcome in _REFUSED:
                    raise self._build_refusal(outcome, new, [keys.public_id for keys in stored])
        return stored

    async def put_lines(
        self, batch: BatchKeys, lines: Sequence[tuple[int, Job]]
    ) -> list[EnqueueOutcome]:
        """Store numbered jobs of a batch in order; return the outcome for each (see `enqueue.lua`).

        If there is no room for a line, the lines after it are not sent and get the same outcome.
        Raises `RedisUnavailable`.
        """
        for _, job in lines:
            self._check_size(job)
        with enqueue_span(count=len(lines)) as span:
            encoded = (_EncodedJob.encode(batch.job(n), job, span.carried) for n, job in lines)
            outcomes: list[EnqueueOutcome] = []
            for some in _split_calls(encoded):
                sent = lines[len(outcomes) : len(outcomes) + len(some)]
                numbers = [number for number, _ in sent]
                receipts = await self._store(some, BatchLines(batch, numbers))
                outcomes.extend(receipt.outcome for receipt in receipts)
                if outcomes[-1] in _NO_ROOM:
                    break
            outcomes += outcomes[-1:] * (len(lines) - len(outcomes))
            return outcomes

    async def aclose(self) -> None:
        """Send the waiting jobs."""
        for waiting in self._waiting:
            await waiting.aclose()

    def _check_size(self, job: Job, prefix: str = "") -> None:
        limit = self._settings.max_prompt_bytes
        if isinstance(job.prompt, str) and len(job.prompt) <= limit // _MOST_BYTES_PER_CHAR:
            return  # `Job.create` has counted it already
        if (size := job.prompt_bytes) > limit:
            reason = f"has {size:,} bytes; DARKQ_MAX_PROMPT_BYTES allows {limit:,}"
            raise InvalidJob(f"{prefix}prompt", reason)

    def _encode(self, job: Job, idempotency_key: str | None, context: TraceContext) -> _EncodedJob:
        if idempotency_key is None:
            return _EncodedJob.encode(JobKeys.new(self._pick_partition()), job, context)
        idempotency_key = check_idempotency_key(idempotency_key)
        partition = choose_partition(idempotency_key, self._settings.partitions, job.tenant)
        return _EncodedJob.encode(JobKeys.new(partition), job, context, idempotency_key)

    async def _store(
        self, new_jobs: Sequence[_EncodedJob], lines: BatchLines | None = None
    ) -> list[Receipt]:
        """Run the script for jobs of one partition. A repeated call stores no job twice."""
        now_ms = int(time.time() * 1000)
        async with speaking_darkq():
            return await scripts.enqueue(
                self._redis,
                new_jobs,
                event=ev.encode(ev.Queued(id=str(Cursor(0, 1)), at_ms=now_ms)),
                job_ttl_s=self._settings.job_ttl_s,
                queue_max_jobs=self._settings.queue_max_jobs,
                max_listed=MAX_LISTED,
                lines=lines,
            )

    def _pick_partition(self, seed: str | None = None) -> int:
        """Pick a random partition, or always the same one for a seed."""
        partitions = self._settings.partitions
        return secrets.randbelow(partitions) if seed is None else int(seed, 16) % partitions

    def _build_refusal(
        self, outcome: EnqueueOutcome, job: NewJob, stored_ids: Sequence[str] = ()
    ) -> QueueFull | QueueClosed | RedisFull:
        if outcome == "memory":
            return RedisFull(stored_ids)
        name = PartitionKeys(job.keys.partition).queue(job.priority)
        if outcome == "closed":
            return QueueClosed(name, stored_ids)
        return QueueFull(name, self._settings.queue_max_jobs, stored_ids)


def _split_calls(jobs: Iterable[_EncodedJob]) -> Iterator[list[_EncodedJob]]:
    """Split jobs into calls of a limited number of jobs and bytes. Encodes jobs lazily."""
    call: list[_EncodedJob] = []
    call_bytes = 0
    for job in jobs:
        call_bytes += job.size()
        if call and (len(call) == MAX_JOBS_PER_CALL or call_bytes > MAX_BYTES_PER_CALL):
            yield call
            call, call_bytes = [], job.size()
        call.append(job)
    if call:
        yield call


def _derive_keys(seed: str | None, number: int) -> JobKeys:
    """Return the keys of a job, with 0 as a preliminary partition."""
    if seed is None:
        return JobKeys.new(0)
    return JobKeys(0, hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:32])


def _compute_digest(job: Job) -> str:
    """Return the digest of a job's content: of its JSON with the prompt as the first field.

    All versions of darkq must use the same order, or every stored key would be a conflict.
    """
    prompt = msgspec.json.encode(job.prompt, order="deterministic")
    if job.parameters:
        prompt += msgspec.json.encode(job.parameters, order="deterministic")
        job = msgspec.structs.replace(job, parameters={})
    others = msgspec.json.encode(msgspec.structs.replace(job, prompt=""), order="deterministic")
    others = others.removeprefix(b"{").removesuffix(b'"prompt":""}')  # ends with a comma
    return hashlib.sha256(b'{"prompt":' + prompt + (b"," + others)[:-1] + b"}").hexdigest()
