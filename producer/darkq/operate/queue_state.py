"""What waits and what runs, in all partitions together.

A job that is due has a score in the past. One whose score is in the future either runs, and then
its lease is there, or is deferred: to its next try, or to its turn at an upstream.

What operators say of a queue: that it is paused, or closed to new jobs.

Paused, its jobs wait: no worker takes one, whoever enqueues may go on, and what runs goes on too.
Closed, it takes no new job, and its backlog runs out. The two know nothing of each other.

A word stands in every partition by itself, for good, and the scripts that claim and enqueue ask for
it. Saying it again is harmless: who was interrupted half way says it again.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.errors import InvalidJob
from darkq.protocol.job import Priority
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.protocol.plain import to_plain
from darkq.redis import scripts

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
        name = PartitionKeys(partition).queue(priority)
        pipe.zcount(name, "-inf", at)
        pipe.zcount(name, after, "+inf")
        pipe.zrangebyscore(name, "-inf", at, start=0, num=1, withscores=True)
        pipe.zrangebyscore(name, after, "+inf", start=0, num=most)
        pipe.hmget(PartitionKeys(partition).control, [f"paused:{priority}", f"closed:{priority}"])
        pipe.zcard(PartitionKeys(partition).moving(priority))
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


Word: TypeAlias = Literal["paused", "closed"]
MAX_NOTE_CHARS = 200


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Who has said a word of a queue, when, and why. `partitions` is in how many it stands.

    The note is the latest one's, where partitions differ. `since_ms` is epoch milliseconds.
    """

    since_ms: int
    by: str = ""
    why: str = ""
    partitions: int = 1


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """A word as it stands in Redis."""

    v: int = 1
    since_ms: int = 0
    by: str = ""
    why: str = ""


async def say(
    redis: Redis, word: Word, priority: Priority, partitions: int, *, by: str | None, why: str
) -> None:
    """Say a word of a queue in every partition. Raises `InvalidJob` for a note that can be none."""
    seconds, micros = await redis.time()
    note = _Note(
        since_ms=seconds * 1000 + micros // 1000,
        by=checked_note("by", whoever() if by is None else by),
        why=checked_note("why", why),
    )
    text = msgspec.json.encode(note).decode()
    async with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            pipe.hset(PartitionKeys(partition).control, f"{word}:{priority}", text)
        await pipe.execute()


async def take_back(redis: Redis, word: Word, priority: Priority, partitions: int) -> None:
    """Take a word back in every partition, and wake the workers."""
    for partition in range(partitions):
        await redis.execute_command("HDEL", PartitionKeys(partition).control, f"{word}:{priority}")
        await scripts.publish(
            redis, PartitionKeys(partition).wake, "jobs", key=PartitionKeys(partition).control
        )


def read_notice(values: Iterable[bytes | None]) -> Notice | None:
    """Put together what stands in each partition; None where the word stands in none."""
    notes = [_read(value) for value in values if value is not None]
    if not notes:
        return None
    latest = max(notes, key=lambda note: note.since_ms)
    return Notice(since_ms=latest.since_ms, by=latest.by, why=latest.why, partitions=len(notes))


def whoever() -> str:
    """Name who runs this process: `<user>@<host>`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may know no name
        user = "?"
    return f"{user}@{socket.gethostname()}"[:MAX_NOTE_CHARS]


def _read(value: bytes) -> _Note:
    try:
        return msgspec.json.decode(value, type=_Note)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # the word counts, whatever it says
        return _Note()


def checked_note(field: str, text: str) -> str:
    """Return a note that fits into a line. Raises `InvalidJob` naming the field."""
    if len(text) > MAX_NOTE_CHARS or not text.isprintable():
        reason = f"must be one line of at most {MAX_NOTE_CHARS} characters"
        raise InvalidJob(field, reason)
    return str(to_plain(text))
