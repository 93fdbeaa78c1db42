"""Failed jobs: listing and retrying them.

The record, result and log of a failed job are kept for `DARKQ_FAILED_TTL_S`, and a list per
partition has its id. A retry removes the result and returns the job to its queue. The event log
and the attempt numbers continue.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence

import msgspec
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CannotRetry, CorruptRecord, QueueFull
from darkq.event import Cursor
from darkq.jobs.status import read_status
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Failure, ResultRecord, read_job, read_result
from darkq.redis import scripts
from darkq.settings.settings import Settings

PAGE_JOBS = 250
NOT_KEPT = "its prompt is no longer kept"


class FailedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A failed job. Times are epoch milliseconds.

    `kept` is True if its prompt is stored, so that it can be retried. An expired one cannot.
    """

    job_id: str
    code: str
    message: str
    failed_ms: int
    queued_ms: int
    kept: bool
    attempt: int
    model: str | None = None
    upstream: str | None = None
    metadata: dict[str, str] = {}
    tenant: str | None = None

    def __repr__(self) -> str:
        return f"FailedJob(job_id={self.job_id!r}, code={self.code!r})"


async def list_failed(
    redis: Redis, partitions: Iterable[int]
) -> AsyncGenerator[list[FailedJob], None]:
    """Yield the failed jobs in pages, the latest first within a partition.

    A job that is retried meanwhile is omitted, and no other job is skipped because of it.
    """
    for partition in partitions:
        seen: set[bytes] = set()
        before: str | float = "+inf"
        while True:
            # By score, not by index: indexes shift when a job is retried.
            page = await redis.zrevrangebyscore(
                PartitionKeys(partition).failed,
                before,
                "-inf",
                start=0,
                num=PAGE_JOBS,
                withscores=True,
            )
            fresh = [arq_id for arq_id, _ in page if arq_id not in seen]
            if fresh:
                yield await _read_failed(redis, fresh)
            if not fresh or len(page) < PAGE_JOBS:
                break
            before = page[-1][1]
            seen = {arq_id for arq_id, score in page if score == before}


async def _read_failed(redis: Redis, arq_ids: Sequence[bytes]) -> list[FailedJob]:
    jobs = [keys for arq_id in arq_ids if (keys := JobKeys.from_member(arq_id)) is not None]
    async with redis.pipeline(transaction=False) as pipe:
        for keys in jobs:
            pipe.get(keys.result)
            pipe.exists(keys.failed)
        replies = await pipe.execute()
    found = []
    for keys, data, kept in zip(jobs, replies[::2], replies[1::2], strict=True):
        try:
            record = read_result(data, keys) if data is not None else None
        except CorruptRecord as error:  # one corrupt record must not hide the others
            unreadable = FailedJob(
                job_id=keys.public_id,
                code="corrupt_record",
                message=str(error),
                failed_ms=0,
                queued_ms=0,
                kept=False,
                attempt=0,
            )
            found.append(unreadable)
            continue
        if record is not None and isinstance(record.r, Failure):
            found.append(_build_failed(keys, record, record.r, kept=bool(kept)))
    return found


def _build_failed(
    keys: JobKeys, record: ResultRecord, failure: Failure, *, kept: bool
) -> FailedJob:
    return FailedJob(
        job_id=keys.public_id,
        code=failure.code,
        message=failure.message,
        failed_ms=record.ft,
        queued_ms=record.et,
        kept=kept,
        attempt=record.t,
        model=record.d.model or None,
        upstream=record.d.upstream or None,
        metadata=record.d.metadata,
        tenant=record.d.tenant,
    )


async def kept_job(redis: Redis, keys: JobKeys) -> Job:
    """Return the kept job of a failed one. Raises `CannotRetry`, `CorruptRecord`, `JobNotFound`."""
    data: bytes | None = await redis.get(keys.failed)
    if data is not None:
        return read_job(data, keys).job
    state = (await read_status(redis, keys)).state
    raise CannotRetry(keys.public_id, NOT_KEPT if state == "failed" else f"it is {state}")


async def retry(redis: Redis, keys: JobKeys, settings: Settings) -> None:
    """Return a failed job to its queue.

    Raises `CannotRetry`, `CorruptRecord`, `JobNotFound`, `QueueFull`.
    """
    while True:  # repeats if the job has changed since the read
        data: bytes | None = await redis.get(keys.result)
        if data is None or (record := read_result(data, keys)).d.outcome != "failed":
            status = await read_status(redis, keys)
            if status.state == "failed":
                continue
            raise CannotRetry(keys.public_id, f"it is {status.state}")
        queues = PartitionKeys(keys.partition).queues
        name = record.q if record.q in queues else queues[0]
        event = ev.Queued(id=str(Cursor(record.t + 1, 0)), at_ms=int(time.time() * 1000))
        outcome = await scripts.revive(
            redis,
            keys,
            name,
            known=data,
            attempt=record.t + 1,
            job_ttl_s=settings.job_ttl_s,
            queue_max_jobs=settings.queue_max_jobs,
            event_id=event.id,
            event=ev.encode(event),
        )
        if outcome == "queued":
            return
        if outcome == "gone":
            raise CannotRetry(keys.public_id, NOT_KEPT)
        if outcome == "full":
            raise QueueFull(name, settings.queue_max_jobs)
