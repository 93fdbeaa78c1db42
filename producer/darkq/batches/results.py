"""How the jobs of a batch ended: one log, numbered without a hole, read in pages.

The channel only says that something has changed; the log and the batch's hash are the truth.

Redis may lose the latest entries, in a failover or a crash. Then their numbers are given again. So
a position is a number and the stamp of the entry there: the log is append-only, therefore the
same stamp at the same number means the same entries before it.

Feeding a batch and taking its results at once; taking them one by one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.batches.status import read_batch
from darkq.errors import BatchNotFound, CursorGone
from darkq.protocol.keys import BatchKeys, JobKeys
from darkq.protocol.record import Failure, Result, ResultRecord, build_result, read_result
from darkq.redis.durability import replicated
from darkq.redis.group_commit import count_fitting
from darkq.redis.pool import is_wrong_type

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
        result=build_result(record) if record is not None and failure is None else None,
        code=failure.code if failure else "",
        message=failure.message if failure else "",
    )


def _custom_id(record: ResultRecord | None) -> str:
    return record.d.metadata.get("custom_id", "") if record is not None else ""


Pages: TypeAlias = AsyncGenerator[list[Finished], None]
Acknowledge: TypeAlias = Callable[[Sequence[Finished]], Awaitable[None]]
PutAgain: TypeAlias = Callable[[list[int]], Awaitable[None]]
FeedAgain: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Collected(Protocol):
    """A batch, as far as its ends are taken."""

    def collected(self) -> Pages: ...

    async def acknowledge(self, page: Sequence[Finished], /) -> None: ...


async def taken(
    pages: Pages,
    acknowledge: Acknowledge,
    again: PutAgain | None = None,
    *,
    after: int = 0,
    before: set[int] | None = None,
) -> AsyncGenerator[Finished, None]:
    """Yield the ends of pages one by one; acknowledge those that were taken.

    Those through `after` were taken before, and so were those of the lines in `before`: a line
    is in it from when its end was taken until that is acknowledged. `again` gets the missing ones,
    which then are not yielded.
    """
    before = set() if before is None else before
    async with aclosing(pages):
        async for ends in pages:
            page = [
                _known(end) if _number(end) <= after or end.number in before else end
                for end in ends
            ]
            count, is_last = 0, False
            try:
                for finished in page:
                    is_new = _number(finished) > after and finished.number not in before
                    if is_new and (again is None or finished.outcome != "missing"):
                        yield finished
                        before.add(finished.number)
                    count += 1
                is_last = True
            finally:
                done = partial(acknowledge, page[:count])
                await (replicated(done) if is_last else done())  # who leaves does not wait
                before.difference_update(end.number for end in page[:count])
            if again is not None:
                await again([end.number for end in page if end.outcome == "missing"])


def _number(end: Finished) -> int:
    return Position.parse(end.cursor).number


def _known(end: Finished) -> Finished:
    """Take an end for one that was there, so that its line is not run again."""
    return msgspec.structs.replace(end, outcome="completed") if end.outcome == "missing" else end


async def fed(
    feeding: Coroutine[Any, Any, None],
    batch: Collected,
    again: PutAgain,
    feed_again: FeedAgain,
    *,
    after: int = 0,
) -> AsyncGenerator[Finished, None]:
    """Feed, and yield the ends meanwhile. Raises what feeding raises.

    When Redis has lost what was read, read again from what it knows as acknowledged. What it has
    lost of the lines is added again once the feeder has added all. An end that was yielded, and
    lost before it was acknowledged, is not yielded again.
    """
    before = set[int]()
    feeder = asyncio.create_task(feeding, name="darkq-batch-feed")
    leaving = False
    try:
        while True:
            pages = _while_fed(batch.collected(), feeder)
            try:
                ends = taken(pages, batch.acknowledge, again, after=after, before=before)
                async with aclosing(ends):
                    async for finished in ends:
                        leaving = True
                        yield finished
                        leaving = False
                await feeder
                return
            except CursorGone:
                if leaving:  # the caller closes us; what was lost comes again to the next one
                    return
                after = 0  # numbers up to there may stand for other ends now
                feeder = asyncio.create_task(_then(feeder, feed_again), name="darkq-batch-feed")
    finally:
        feeder.cancel()
        await asyncio.wait([feeder])


async def _then(feeder: asyncio.Task[None], feed_again: FeedAgain) -> None:
    await feeder
    await feed_again()


async def _while_fed(pages: Pages, feeder: asyncio.Task[None]) -> Pages:
    async with aclosing(pages):
        while True:
            step = asyncio.ensure_future(anext(pages, None))
            try:
                await asyncio.wait([step, feeder], return_when=asyncio.FIRST_COMPLETED)
                if feeder.done():
                    feeder.result()
                page = await step
            finally:
                step.cancel()
                await asyncio.wait([step])
            if page is None:
                return
            yield page
