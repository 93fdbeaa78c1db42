"""What waits and what runs, in all partitions together.

A job that is due has a score in the past. One whose score is in the future either runs, and then
its lease is there, or is deferred: to its next try, or to its turn at an upstream.
"""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis

from darkq.job import Priority
from darkq.keys import PRIORITIES, JobKeys, control, moving, queue
from darkq.queue_control import Notice, read_notice

_MOST_LOOKED_AT = 10_000
_EXISTS_AT_ONCE = 500  # a short command each: others are served in between


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a priority wait for a worker, for their time, or run.

    `oldest_wait_s` is for how long the first of those that wait has been due. Of jobs that are not
    due, ten thousand at least are looked at, the next first; those beyond them count as deferred.
    `paused` and `closed` tell who has said so, if anybody has, and in how many of the `partitions`.
    `moving` are on their way to another Redis, and in no queue.
    """

    priority: Priority
    waiting: int
    deferred: int
    running: int
    oldest_wait_s: float
    paused: Notice | None = None
    closed: Notice | None = None
    partitions: int = 1
    moving: int = 0


async def read_queues(redis: Redis, partitions: int) -> list[QueueStatus]:
    """Return how the queues stand, the most urgent first. Raises what redis-py raises."""
    return [await read_queue(redis, priority, partitions) for priority in PRIORITIES]


async def read_queue(redis: Redis, priority: Priority, partitions: int) -> QueueStatus:
    """Return how a queue stands. Raises what redis-py raises."""
    seconds, micros = await redis.time()
    now_ms = seconds * 1000 + micros / 1000
    at, after = f"{now_ms:.3f}", f"({now_ms:.3f}"
    most = max(1, _MOST_LOOKED_AT // partitions)
    pipe = redis.pipeline(transaction=False)
    for partition in range(partitions):
        name = queue(partition, priority)
        pipe.zcount(name, "-inf", at)
        pipe.zcount(name, after, "+inf")
        pipe.zrangebyscore(name, "-inf", at, start=0, num=1, withscores=True)
        pipe.zrangebyscore(name, after, "+inf", start=0, num=most)
        pipe.hmget(control(partition), [f"paused:{priority}", f"closed:{priority}"])
        pipe.zcard(moving(partition, priority))
    replies = await pipe.execute()
    waiting, later = sum(replies[0::6]), sum(replies[1::6])
    oldest = [score for first in replies[2::6] for _, score in first]
    running = await _count_held(redis, [arq_id for page in replies[3::6] for arq_id in page])
    return QueueStatus(
        priority=priority,
        waiting=waiting,
        deferred=max(0, later - running),
        running=running,
        oldest_wait_s=max(0.0, (now_ms - min(oldest)) / 1000) if oldest else 0.0,
        paused=read_notice(paused for paused, _ in replies[4::6]),
        closed=read_notice(closed for _, closed in replies[4::6]),
        partitions=partitions,
        moving=sum(replies[5::6]),
    )


async def _count_held(redis: Redis, arq_ids: list[bytes]) -> int:
    """Count the jobs that are under a lease."""
    leases: dict[int, list[str]] = {}
    for arq_id in arq_ids:
        try:
            keys = JobKeys.from_arq_id(arq_id.decode())
        except ValueError:  # anybody may have put it there; a claim will throw it out
            continue
        leases.setdefault(keys.partition, []).append(keys.in_progress)
    pipe = redis.pipeline(transaction=False)
    for names in leases.values():
        for start in range(0, len(names), _EXISTS_AT_ONCE):
            pipe.exists(*names[start : start + _EXISTS_AT_ONCE])
    return sum(await pipe.execute()) if leases else 0
