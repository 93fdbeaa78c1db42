"""Readers of a job, and what they must have read when it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from redis.asyncio import Redis

from darkq import event as ev
from darkq.event import AnyEvent, Cursor
from darkq.jobs.tail import tail
from darkq.redis.pubsub import Live
from integration.model.job_model import Job
from integration.model.photograph import timeless


async def read(redis: Redis, live: Live, job: Job, after: Cursor, into: list[AnyEvent]) -> None:
    """Read to the terminal event."""
    async with aclosing(tail(redis, live, job.keys, after)) as batches:
        async for batch in batches:
            into += map(timeless, batch)


class Reader:
    """Reads along while things happen."""

    def __init__(self, redis: Redis, live: Live, job: Job, after: Cursor) -> None:
        self.job, self.after = job, after
        self.seen: list[AnyEvent] = []
        self.task = asyncio.create_task(read(redis, live, job, after, self.seen))

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def ended(self) -> None:
        """Wait for the end of a finished job, and compare."""
        await self.task
        assert self.seen == remaining(self.job, self.after)


def remaining(job: Job, after: Cursor) -> Sequence[AnyEvent]:
    """What a reader of a finished job gets after a cursor.

    Where there is no log, the result stands in for it.
    """
    if job.log is not None:
        return [event for event in job.log if event.cursor > after]
    assert job.ending is not None
    attempt, answer = job.ending.attempt, job.ending.answer
    if isinstance(answer, str):
        chunk = ev.Chunk(id=f"{attempt}-1", text=answer, merged=job.ending.chunks)
        return [chunk, ev.Completed(id=f"{attempt}-2", finish_reason=job.ending.finish_reason)]
    if job.ending.outcome == "cancelled":
        return [ev.Cancelled(id=f"{attempt}-0", at_ms=0)]
    return [ev.Failed(id=f"{attempt}-0", code=answer.code, message=answer.message, at_ms=0)]
