"""What operators say of a queue: that it is paused, or closed to new jobs.

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

from darkq import scripts
from darkq.errors import InvalidJob
from darkq.job import Priority
from darkq.keys import control, wake
from darkq.plain import plain

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
            pipe.hset(control(partition), f"{word}:{priority}", text)
        await pipe.execute()


async def take_back(redis: Redis, word: Word, priority: Priority, partitions: int) -> None:
    """Take a word back in every partition, and wake the workers."""
    for partition in range(partitions):
        await redis.execute_command("HDEL", control(partition), f"{word}:{priority}")
        await scripts.publish(redis, [control(partition)], [wake(partition), "jobs"])


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
    return str(plain(text))
