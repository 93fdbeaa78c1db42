"""Where a job stands, read from Redis in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from darkq.errors import JobNotFound
from darkq.keys import PRIORITIES, JobKeys, queue
from darkq.record import JobRecord, ResultRecord, read_job, read_result

State: TypeAlias = Literal[
    "queued", "deferred", "running", "cancelling", "completed", "failed", "cancelled"
]
FINISHED: tuple[State, ...] = ("completed", "failed", "cancelled")


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job's state. `attempt` is 0 before the first one; `tries` counts burnt ones.

    `deferred` waits for its next try, or for its turn at the upstream; `cancelling` runs, or did
    when its worker was last heard of, and has been asked to stop. Times are epoch milliseconds,
    `due_in_ms` the time left of a deferral. What begins with `started_ms` is of a finished job's
    last attempt: when it began, gave its first chunk and ended, and how many chunks the upstream
    sent; 0 where there were none.
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

    def __repr__(self) -> str:
        return f"Status(job_id={self.job_id!r}, state={self.state!r}, attempt={self.attempt})"


async def read_status(redis: Redis, keys: JobKeys) -> Status:
    """Return where a job stands. Raises `JobNotFound`, `CorruptRecord`."""
    async with redis.pipeline(transaction=True) as pipe:
        _ask(pipe, keys)
        status = _read(keys, await pipe.execute())
    if status is None:
        raise JobNotFound(keys.public_id)
    return status


async def read_statuses(redis: Redis, jobs: Sequence[JobKeys]) -> list[Status]:
    """Return where jobs of any partitions stand, but for those of which nothing is left."""
    async with redis.pipeline(transaction=False) as pipe:
        for keys in jobs:
            _ask(pipe, keys)
        replies = await pipe.execute() if jobs else []
    statuses = [
        _read(keys, replies[n * _QUESTIONS : (n + 1) * _QUESTIONS]) for n, keys in enumerate(jobs)
    ]
    return [status for status in statuses if status is not None]


_QUESTIONS = 6 + len(PRIORITIES)


def _ask(pipe: Pipeline, keys: JobKeys) -> None:
    pipe.get(keys.result)
    pipe.get(keys.job)
    pipe.exists(keys.in_progress)
    pipe.get(keys.retry)
    pipe.hmget(keys.state, ["tries", "cancel"])
    pipe.time()
    for priority in PRIORITIES:
        pipe.zscore(queue(keys.partition, priority), keys.arq_id)


def _read(keys: JobKeys, replies: Sequence[Any]) -> Status | None:
    result, job, held, attempt, (tries, cancel), now, *scores = replies
    if result is not None:
        return _finished(keys, read_result(result, keys))
    score = next((score for score in scores if score is not None), None)
    if job is None and score is None:
        return None
    wait_ms = 0 if score is None else int(score - now[0] * 1000 - now[1] / 1000)
    state = _state(held=bool(held), cancel=cancel is not None, deferred=wait_ms > 0)
    return _unfinished(
        keys,
        read_job(job, keys) if job is not None else None,
        state,
        attempt=int(attempt or 0),
        tries=int(tries or 0),
        due_in_ms=wait_ms if state == "deferred" else 0,
    )


def _state(*, held: bool, cancel: bool, deferred: bool) -> State:
    if cancel:
        return "cancelling"
    if held:
        return "running"
    return "deferred" if deferred else "queued"


def _finished(keys: JobKeys, record: ResultRecord) -> Status:
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


def _unfinished(
    keys: JobKeys,
    record: JobRecord | None,
    state: State,
    *,
    attempt: int,
    tries: int,
    due_in_ms: int,
) -> Status:
    return Status(
        job_id=keys.public_id,
        state=state,
        attempt=attempt,
        tries=tries,
        model=record.job.model if record else None,
        upstream=record.job.upstream if record else None,
        queued_ms=record.et if record else 0,
        due_in_ms=due_in_ms,
        metadata=record.job.metadata if record else {},
        tenant=record.job.tenant if record else None,
    )
