"""The state of a queue over all partitions: its counts, and whether it is paused or closed.

The score of a job that is due is in the past. A job with a score in the future either runs, and
then it has a lease, or is deferred: to its next try, or to its turn at an upstream.

Workers claim no jobs of a paused queue; enqueueing and running jobs continue. A closed queue
accepts no new jobs, and its backlog is worked off. The two marks are independent. Each is stored in
every partition, without expiry, and the scripts that claim and enqueue read it. To set a mark again
is harmless, so an interrupted call is repeated.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterable
from typing import Literal, TypeAlias, TypeVar

import msgspec
from redis.asyncio import Redis

from darkq.errors import InvalidJob
from darkq.protocol.job import Priority
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.protocol.plain import to_plain
from darkq.redis import scripts
from darkq.redis.servers import read_clock_ms

T = TypeVar("T")
D = TypeVar("D")

_MOST_LOOKED_AT = 10_000
_EXISTS_AT_ONCE = 500  # short commands, so that Redis serves others in between


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The number of jobs of a priority that wait, are deferred, or run.

    `oldest_wait_s` is how long the oldest waiting job has been due. Of jobs that are not due, at
    least ten thousand are examined, the next ones first; those beyond count as deferred. `paused`
    and `closed` contain who set the mark, if it is set, and in how many of the `partitions`.
    `moving` jobs are in transit to another Redis, and in no queue.
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
    """Return the status of all queues, the most urgent first. Raises what redis-py raises."""
    return [await read_queue(redis, priority, partitions) for priority in PRIORITIES]


async def read_queue(redis: Redis, priority: Priority, partitions: int) -> QueueStatus:
    """Return the status of a queue. Raises what redis-py raises."""
    now_ms = await read_clock_ms(redis)
    at, after = f"{now_ms:.3f}", f"({now_ms:.3f}"
    most = max(1, _MOST_LOOKED_AT // partitions)
    pipe = redis.pipeline(transaction=False)
    for partition in range(partitions):
        keys = PartitionKeys(partition)
        name = keys.queue(priority)
        pipe.zcount(name, "-inf", at)
        pipe.zcount(name, after, "+inf")
        pipe.zrangebyscore(name, "-inf", at, start=0, num=1, withscores=True)
        pipe.zrangebyscore(name, after, "+inf", start=0, num=most)
        pipe.hmget(keys.control, [f"paused:{priority}", f"closed:{priority}"])
        pipe.zcard(keys.moving(priority))
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
    leases: dict[int, list[str]] = {}
    for keys in filter(None, map(JobKeys.from_member, arq_ids)):
        leases.setdefault(keys.partition, []).append(keys.in_progress)
    pipe = redis.pipeline(transaction=False)
    for names in leases.values():
        for start in range(0, len(names), _EXISTS_AT_ONCE):
            pipe.exists(*names[start : start + _EXISTS_AT_ONCE])
    return sum(await pipe.execute()) if leases else 0


Mark: TypeAlias = Literal["paused", "closed"]
MAX_NOTE_CHARS = 200


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """The author, the time and the reason of a mark, and the number of its `partitions`.

    If partitions differ, this is the latest mark. `since_ms` is epoch milliseconds.
    """

    since_ms: int
    by: str = ""
    why: str = ""
    partitions: int = 1


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """A mark as it is stored; one that cannot be read counts, too."""

    v: int = 1
    since_ms: int = 0
    by: str = ""
    why: str = ""


async def set_mark(
    redis: Redis, mark: Mark, priority: Priority, partitions: int, *, by: str | None, why: str
) -> None:
    """Mark a queue in every partition. Raises `InvalidJob` for an invalid note."""
    note = _Note(
        since_ms=int(await read_clock_ms(redis)),
        by=checked_note("by", name_operator() if by is None else by),
        why=checked_note("why", why),
    )
    text = msgspec.json.encode(note).decode()
    async with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            pipe.hset(PartitionKeys(partition).control, f"{mark}:{priority}", text)
        await pipe.execute()


async def clear_mark(redis: Redis, mark: Mark, priority: Priority, partitions: int) -> None:
    """Remove a mark in every partition, and wake the workers."""
    for partition in range(partitions):
        keys = PartitionKeys(partition)
        await redis.execute_command("HDEL", keys.control, f"{mark}:{priority}")
        await scripts.publish(redis, keys.wake, "jobs", key=keys.control)


def read_notice(values: Iterable[bytes | None]) -> Notice | None:
    """Merge the marks of all partitions; None if there is none."""
    notes = [decode_or(value, _Note, _Note()) for value in values if value is not None]
    if not notes:
        return None
    latest = max(notes, key=lambda note: note.since_ms)
    return Notice(since_ms=latest.since_ms, by=latest.by, why=latest.why, partitions=len(notes))


def name_operator() -> str:
    """Return the operator's name, from the user of this process: `<user>@<host>`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no user database
        user = "?"
    return f"{user}@{socket.gethostname()}"[:MAX_NOTE_CHARS]


def decode_or(value: bytes | None, type_: type[T], default: D) -> T | D:
    """Return a stored value, or the default if there is none or darkq did not write it."""
    try:
        return msgspec.json.decode(value or b"", type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return default


def checked_note(field: str, text: str) -> str:
    """Return a note of one line. Raises `InvalidJob`, which names the field."""
    if len(text) > MAX_NOTE_CHARS or not text.isprintable():
        reason = f"must be one line of at most {MAX_NOTE_CHARS} characters"
        raise InvalidJob(field, reason)
    return str(to_plain(text))
