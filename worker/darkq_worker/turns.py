"""Making jobs due that were put off: their turn has come earlier than was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from darkq.keys import PRIORITIES, JobKeys, queue, wake

FIELDS = 3


class _Called(NamedTuple):
    """A job that could go now; `place` is its score in its queue before it was put off."""

    arq_id: bytes
    queue: str
    wake: str
    place: bytes


async def make_due(redis: Redis, called: Sequence[Any]) -> list[bytes]:
    """Move jobs back to their places and wake the workers; return those that are in no queue.

    Takes three fields per job, as `limits.lua` returns them. A job that is running has its
    lease's end for a score: `claim` puts it back there.
    """
    fields = range(0, len(called), FIELDS)
    jobs = [job for n in fields if (job := _parse(*called[n : n + FIELDS])) is not None]
    pipe = redis.pipeline(transaction=False)
    for job in jobs:
        pipe.execute_command("ZADD", job.queue, "XX", "LT", job.place, job.arq_id)
        pipe.zscore(job.queue, job.arq_id)
    for channel in {job.wake for job in jobs}:
        pipe.publish(channel, "jobs")
    replies = await pipe.execute()
    scores = replies[1 : 2 * len(jobs) : 2]
    found = {job.arq_id for job, score in zip(jobs, scores, strict=True) if score is not None}
    return [called[n] for n in fields if called[n] not in found]


def _parse(arq_id: bytes, priority_number: int, place: bytes) -> _Called | None:
    """Return None for what is none of ours: anybody may have written it."""
    try:
        partition = JobKeys.from_arq_id(arq_id.decode()).partition
        name = queue(partition, PRIORITIES[priority_number])
    except (ValueError, IndexError):
        return None
    return _Called(arq_id, name, wake(partition), place)
