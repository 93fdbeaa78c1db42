"""Cancellation: a waiting job ends at once, a running one is stopped by its worker."""

from __future__ import annotations

import time

from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import JobNotFound
from darkq.event import Cursor
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Details, Failure, ResultRecord, encode, read_job
from darkq.redis import scripts

CANCELLED = Failure(type="JobCancelled", code="cancelled", message="cancelled")


async def cancel(
    redis: Redis, keys: JobKeys, *, result_ttl_s: float, only_waiting: bool = False
) -> bool:
    """Cancel a waiting job, or request its worker to stop a running one.

    With `only_waiting` a running job is not changed. Returns whether this call cancelled the job. A
    finished job is not changed; calls may be repeated. Raises `JobNotFound`, `CorruptRecord`.
    """
    while True:  # repeats if a worker has claimed the job since the read
        job, retry = await redis.mget(keys.job, keys.retry)
        attempt = int(retry or 0)
        record = read_job(job, keys) if job is not None else None
        now_ms = int(time.time() * 1000)
        result = ResultRecord(
            t=attempt + 1,
            et=record.et if record else now_ms,
            s=False,
            r=CANCELLED,
            st=now_ms,
            ft=now_ms,
            q=PartitionKeys(keys.partition).queue(record.job.priority if record else "interactive"),
            id=keys.arq_id,
            d=Details(
                outcome="cancelled",
                metadata=record.job.metadata if record else {},
                tenant=record.job.tenant if record else None,
            ),
        )
        event = ev.Cancelled(id=str(Cursor(attempt + 1, 0)), at_ms=now_ms)
        outcome = await scripts.cancel(
            redis,
            keys,
            attempt=attempt,
            result=encode(result),
            result_ttl_s=result_ttl_s,
            event_id=event.id,
            event=ev.encode(event),
            only_waiting=only_waiting,
        )
        if outcome == "unknown":
            raise JobNotFound(keys.public_id)
        if outcome != "again":
            return outcome == "cancelled"
