"""How the jobs of a batch ended: one log, numbered without a hole, read in pages.

The channel only says that something has changed; the log and the batch's hash are the truth.

Redis may lose the latest entries, in a failover or a crash. Then their numbers are given again. So
a position is a number and the stamp of the entry there: the log is append-only, therefore the
same stamp at the same number means the same entries before it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from typing import Literal, NamedTuple, Self, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.batch_status import read_batch
from darkq.connection import is_wrong_type
from darkq.errors import BatchNotFound, CursorGone
from darkq.group_commit import count_fitting
from darkq.keys import BatchKeys, JobKeys
from darkq.record import Failure, ResultRecord, read_result
from darkq.result import Result, result_of

LineOutcome: TypeAlias = Literal["completed", "failed", "cancelled", "missing"]

PAGE_LINES = 200
_POSITION = re.compile(r"(\d{1,15})(?:@(\d{1,17}))?", re.ASCII)


class Position(NamedTuple):
    """A place in the log of ends: after the entry `number`, which carries `stamp`.

    As a string: `12@1790000000000000`. An entry of darkq 0.1 has no stamp, and is only `12`.
    """

    number: int
    stamp: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a position. Raises `ValueError`."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ValueError("not a position in a batch")
        return cls(int(match[1]), match[2] or "")

    def __str__(self) -> str:
        return f"{self.number}@{self.stamp}" if self.stamp else str(self.number)


class LineEnded(msgspec.Struct, frozen=True, kw_only=True):
    """A line's job has ended. `cursor` is the end's place in the batch's log."""

    number: int
    job_id: str
    outcome: Literal["completed", "failed", "cancelled"]
    cursor: str


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a line ended, and with what.

    `result` is there when it is `completed`, `code` and `message` when it is `failed`. `missing`
    lines have ended, but their result expired before it was taken: add them again, once this is
    acknowledged. `custom_id` is "" where nothing says it any more: `missing`, or an unreadable job.
    """

    number: int
    custom_id: str
    job_id: str
    cursor: str
    outcome: LineOutcome
    result: Result | None = None
    code: str = ""
    message: str = ""

    def __repr__(self) -> str:
        return f"Finished(number={self.number}, outcome={self.outcome!r}, cursor={self.cursor!r})"


class Page(NamedTuple):
    """Ends after a position, and how the batch stands.

    `last`: no end will follow. `closed`: the input is closed, or the batch cancelled.
    """

    ends: list[LineEnded]
    last: bool
    closed: bool
    acknowledged: int


async def acknowledged(redis: Redis, keys: BatchKeys) -> Position:
    """Return the position of the last end that was taken over. Raises `BatchNotFound`."""
    return await _position(redis, keys, (await read_batch(redis, keys)).acknowledged)


async def holds(redis: Redis, keys: BatchKeys, position: Position) -> bool:
    """Tell whether the log still has the entry that a position names."""
    return not position.stamp or await _position(redis, keys, position.number) == position


async def _position(redis: Redis, keys: BatchKeys, number: int) -> Position:
    entries = await redis.xrange(keys.ends, f"{number}-0", f"{number}-0")
    return Position(number, _stamp(entries[0][1]) if entries else "")


async def read_ends(redis: Redis, keys: BatchKeys, after: Position | None) -> Page:
    """Return the next ends; after None: from the first that is kept.

    Raises `CursorGone` when they have been dropped, or when Redis has lost the entry that `after`
    names, `BatchNotFound`.
    """
    start = after.number if after is not None else 0
    async with redis.pipeline(transaction=True) as pipe:
        pipe.xrange(keys.ends, f"{start}-0", "+", count=PAGE_LINES + 1)
        pipe.hmget(keys.batch, ["created_ms", "ended", "total", "cancel", "acknowledged"])
        pipe.zcount(keys.lines, 0, 0)
        entries, (created, ended, total, cancel, taken), running = await pipe.execute()
    if created is None:
        raise BatchNotFound(keys.public_id)
    ends = [_ended(keys, entry_id, fields) for entry_id, fields in entries]
    first = Position.parse(ends[0].cursor) if ends else Position(int(ended or 0) + 1)
    if after is not None and not start:
        if first.number != 1:
            raise CursorGone(keys.public_id, str(after))
    elif first.number > 1 or start == 1:  # the first entry is the one before those asked for
        if after is not None and (not ends or not _same(first, after)):
            raise CursorGone(keys.public_id, str(after))
        del ends[:1]
    closed = total is not None or cancel is not None
    return Page(ends, closed and not running and not ends, closed, int(taken or 0))


async def with_results(
    redis: Redis, ends: Sequence[LineEnded]
) -> AsyncGenerator[list[Finished], None]:
    """Yield the ends with what is stored of them, in pages of a bounded number of bytes."""
    names = [JobKeys.parse(end.job_id).result for end in ends]
    sizes = await _sizes(redis, names) if names else []
    start = 0
    while start < len(ends):
        stop = start + count_fitting(sizes[start:], max_items=PAGE_LINES)
        records = await redis.mget(names[start:stop])
        yield [_finished(*each) for each in zip(ends[start:stop], records, strict=True)]
        start = stop


async def _sizes(redis: Redis, names: Sequence[str]) -> list[int]:
    """Return how long values are; 0 for what is no string, which MGET takes for missing."""
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.strlen(name)
        replies = await pipe.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
    return [reply if isinstance(reply, int) else 0 for reply in replies]


def _ended(keys: BatchKeys, entry_id: bytes, fields: dict[bytes, bytes]) -> LineEnded:
    line = int(fields[b"l"])
    return msgspec.convert(
        {
            "number": line,
            "job_id": keys.job(line).public_id,
            "outcome": fields[b"o"].decode(),
            "cursor": str(Position(int(entry_id.split(b"-")[0]), _stamp(fields))),
        },
        LineEnded,
    )


def _same(entry: Position, position: Position) -> bool:
    return entry.number == position.number and position.stamp in ("", entry.stamp)


def _stamp(fields: dict[bytes, bytes]) -> str:
    return fields.get(b"t", b"").decode()


def _finished(end: LineEnded, data: bytes | None) -> Finished:
    record = read_result(data, JobKeys.parse(end.job_id)) if data is not None else None
    outcome: LineOutcome = end.outcome if record is not None else "missing"
    answer = record.r if record is not None else None
    failure = answer if isinstance(answer, Failure) else None
    return Finished(
        number=end.number,
        custom_id=_custom_id(record),
        job_id=end.job_id,
        cursor=end.cursor,
        outcome=outcome,
        result=result_of(record) if record is not None and failure is None else None,
        code=failure.code if failure else "",
        message=failure.message if failure else "",
    )


def _custom_id(record: ResultRecord | None) -> str:
    return record.d.metadata.get("custom_id", "") if record is not None else ""
