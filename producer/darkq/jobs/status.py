"""The status of jobs, read from Redis in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from darkq.errors import JobNotFound
from darkq.protocol.job import Priority
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.protocol.record import (
    HEADS_BYTES,
    CutShort,
    KeptRequest,
    ResultRecord,
    read_job,
    read_job_head,
    read_result,
    read_result_head,
)
from darkq.redis.servers import clock_ms

State: TypeAlias = Literal[
    "queued", "deferred", "running", "cancelling", "completed", "failed", "cancelled"
]
FINISHED: tuple[State, ...] = ("completed", "failed", "cancelled")

Reason: TypeAlias = Literal[
    "queue_paused",
    "no_worker",
    "workers_draining",
    "upstream_not_served",
    "breaker_open",
    "upstream_paused",
    "limit_reached",
    "next_try",
    "worker_busy",
    "failed",
]


class Why(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a job waits, or why it has failed: `reason` for programs, `message` for people.

    `until_ms` is when the wait ends, epoch milliseconds, if that is known. `code`, `attempt` and
    `upstream` describe the last attempt, if it failed. `by` is who has paused the queue.
    """

    reason: Reason
    message: str
    until_ms: int = 0
    code: str = ""
    attempt: int = 0
    upstream: str = ""
    by: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The status of a job. `attempt` is 0 before the first one; `tries` counts the used ones.

    A `deferred` job waits for its next try, or for its turn at the upstream. A `cancelling` job
    runs, or its worker is lost, and a cancellation is requested. Times are epoch milliseconds;
    `due_in_ms` is the rest of a deferral. `started_ms`, `first_chunk_ms`, `finished_ms` and
    `chunks` describe the last attempt of a finished job; 0 if it had none. `priority` is the queue
    of an unfinished job. `why` says why the job waits or has failed; `Client.explain` adds it.
    """

    job_id: str
    state: State
    attempt: int = 0
    tries: int = 0
    model: str | None = None
    upstream: str | None = None
    queued_ms: int = 0
    due_in_ms: int = 0
    started_ms: int = 0
    first_chunk_ms: int = 0
    finished_ms: int = 0
    chunks: int = 0
    metadata: dict[str, str] = {}
    tenant: str | None = None
    priority: Priority | None = None
    why: Why | None = None

    def __repr__(self) -> str:
        return f"Status(job_id={self.job_id!r}, state={self.state!r}, attempt={self.attempt})"


async def read_status(redis: Redis, keys: JobKeys) -> Status:
    """Return the status of a job. Raises `JobNotFound`, `CorruptRecord`.

    The texts are not read, so that a request for another tenant's job costs no more than one for an
    unknown job.
    """
    (status,) = await _read_heads(redis, [keys], transaction=True)
    if status is None:
        raise JobNotFound(keys.public_id)
    return status


async def read_statuses(redis: Redis, jobs: Sequence[JobKeys]) -> list[Status]:
    """Return the status of jobs of any partitions, without those that have expired.

    Raises `CorruptRecord` for the first record that cannot be read.
    """
    statuses = await _read_heads(redis, jobs, transaction=False)
    return [status for status in statuses if status is not None]


async def _read_heads(
    redis: Redis, jobs: Sequence[JobKeys], *, transaction: bool
) -> list[Status | None]:
    """Read the heads of records, of two sizes, then the whole of those that need it, one by one."""
    found: dict[JobKeys, Status | None] = {}
    for limit_bytes in HEADS_BYTES:
        left = [keys for keys in jobs if keys not in found]
        for keys, replies in await _fetch(redis, left, limit_bytes, transaction=transaction):
            with suppress(CutShort):
                found[keys] = _build_status(keys, replies, limit_bytes)
    for job in [keys for keys in jobs if keys not in found]:
        for keys, replies in await _fetch(redis, [job], None, transaction=transaction):
            found[keys] = _build_status(keys, replies, None)
    return [found[keys] for keys in jobs]


async def _fetch(
    redis: Redis, jobs: Sequence[JobKeys], limit_bytes: int | None, *, transaction: bool
) -> list[tuple[JobKeys, list[Any]]]:
    """Read the keys of each job, with at most `limit_bytes` of its records (None: all)."""
    if not jobs:
        return []
    async with redis.pipeline(transaction=transaction) as pipe:
        for keys in jobs:
            _queue_commands(pipe, keys, limit_bytes)
        replies = await pipe.execute()
    each = len(replies) // len(jobs)
    return [(keys, replies[n * each : (n + 1) * each]) for n, keys in enumerate(jobs)]


def _queue_commands(pipe: Pipeline, keys: JobKeys, limit_bytes: int | None) -> None:
    end = -1 if limit_bytes is None else limit_bytes - 1
    for name in (keys.result, keys.job):
        pipe.exists(name)  # GETRANGE returns "" for a missing key as for an empty record
        pipe.getrange(name, 0, end)
    pipe.exists(keys.in_progress)
    pipe.get(keys.retry)
    pipe.hmget(keys.state, ["tries", "cancel"])
    pipe.time()
    for priority in PRIORITIES:
        pipe.zscore(PartitionKeys(keys.partition).queue(priority), keys.arq_id)


def _build_status(keys: JobKeys, replies: Sequence[Any], limit_bytes: int | None) -> Status | None:
    has_result, result, has_job, job, held, attempt, (tries, cancel), now, *scores = replies
    if has_result or result:
        return _build_finished(keys, read_result_head(result, keys, limit_bytes))
    queues = zip(PRIORITIES, scores, strict=True)
    priority, score = next((each for each in queues if each[1] is not None), (None, None))
    has_job = has_job or job
    if not has_job and score is None:
        return None
    wait_ms = 0 if score is None else int(score - clock_ms(now))
    state = _choose_state(held=bool(held), cancel=cancel is not None, deferred=wait_ms > 0)
    status = Status(
        job_id=keys.public_id,
        state=state,
        attempt=int(attempt or 0),
        tries=int(tries or 0),
        due_in_ms=wait_ms if state == "deferred" else 0,
        priority=priority,
    )
    if not has_job:
        return status
    record = read_job_head(job, keys, limit_bytes)
    return msgspec.structs.replace(
        status,
        model=record.job.model,
        upstream=record.job.upstream,
        queued_ms=record.et,
        metadata=record.job.metadata,
        tenant=record.job.tenant,
    )


def _choose_state(*, held: bool, cancel: bool, deferred: bool) -> State:
    if cancel:
        return "cancelling"
    if held:
        return "running"
    return "deferred" if deferred else "queued"


def _build_finished(keys: JobKeys, record: ResultRecord) -> Status:
    return Status(
        job_id=keys.public_id,
        state=record.d.outcome,
        attempt=record.t,
        model=record.d.model or None,
        upstream=record.d.upstream or None,
        queued_ms=record.et,
        started_ms=record.st,
        first_chunk_ms=record.d.first_chunk_ms,
        finished_ms=record.ft,
        chunks=record.d.chunks,
        metadata=record.d.metadata,
        tenant=record.d.tenant,
    )


async def read_request(redis: Redis, keys: JobKeys) -> KeptRequest | None:
    """Return the request of a job; None if the job has ended and its request is not kept.

    Raises `CorruptRecord`, `JobNotFound`.
    """
    async with redis.pipeline(transaction=True) as pipe:
        for name in (keys.job, keys.failed, keys.result):
            pipe.get(name)
        waiting, failed, result = await pipe.execute()
    if waiting is not None or failed is not None:
        job = read_job(waiting or failed, keys).job
        return KeptRequest(prompt=job.prompt, parameters=job.parameters)
    if result is None:
        raise JobNotFound(keys.public_id)
    return read_result(result, keys).p or None
