"""How the jobs of a batch ended: one log, numbered without a hole, read in pages.

The channel only says that something has changed; the log and the batch's hash are the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.batch_status import read_batch
from darkq.errors import BatchNotFound, CursorGone
from darkq.keys import BatchKeys, JobKeys
from darkq.record import Failure, ResultRecord, read_result
from darkq.result import Result, result_of

LineOutcome: TypeAlias = Literal["completed", "failed", "cancelled", "missing"]

PAGE_LINES = 200


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
    """Ends after a cursor, whether there will never be one, and the last that is acknowledged."""

    ends: list[LineEnded]
    last: bool
    acknowledged: int


async def acknowledged(redis: Redis, keys: BatchKeys) -> int:
    """Return the number of the last end that was taken over. Raises `BatchNotFound`."""
    return (await read_batch(redis, keys)).acknowledged


async def read_ends(redis: Redis, keys: BatchKeys, after: int | None) -> Page:
    """Return the next ends; after None: from the first that is kept.

    Raises `CursorGone` when they have been dropped, `BatchNotFound`.
    """
    async with redis.pipeline(transaction=True) as pipe:
        pipe.xrange(keys.ends, f"({after or 0}-0", "+", count=PAGE_LINES)
        pipe.hmget(keys.batch, ["created_ms", "ended", "total", "cancel", "acknowledged"])
        pipe.zcount(keys.lines, 0, 0)
        entries, (created, ended, total, cancel, taken), running = await pipe.execute()
    if created is None:
        raise BatchNotFound(keys.public_id)
    ends = [_ended(keys, entry_id, fields) for entry_id, fields in entries]
    next_number = int(ends[0].cursor) if ends else int(ended or 0) + 1
    if after is not None and next_number != after + 1:
        raise CursorGone(keys.public_id, str(after))
    over = not running and (total is not None or cancel is not None)
    return Page(ends, over and not ends, int(taken or 0))


async def with_results(redis: Redis, ends: Sequence[LineEnded]) -> list[Finished]:
    """Return the ends with what is stored of them."""
    if not ends:
        return []
    records = await redis.mget([JobKeys.parse(end.job_id).result for end in ends])
    return [_finished(end, record) for end, record in zip(ends, records, strict=True)]


def _ended(keys: BatchKeys, entry_id: bytes, fields: dict[bytes, bytes]) -> LineEnded:
    line = int(fields[b"l"])
    return msgspec.convert(
        {
            "number": line,
            "job_id": keys.job(line).public_id,
            "outcome": fields[b"o"].decode(),
            "cursor": entry_id.split(b"-")[0].decode(),
        },
        LineEnded,
    )


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
