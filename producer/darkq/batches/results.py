"""How the jobs of a batch ended: a log, numbered without gaps, read in pages; and taking its ends.

The channel only reports that something has changed; the log and the batch's hash are authoritative.

Redis may lose the latest entries, in a failover or a crash, and then assign their numbers again. So
a position is a number and the stamp of its entry. The log is append-only: the same stamp at the
same number means that the entries before it are the same too.

`take_ends` yields the ends one by one, while a task adds lines, and acknowledges those taken.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, Self, cast

import msgspec
from redis.asyncio import Redis

from darkq.batches.status import read_batch
from darkq.errors import BatchNotFound, CursorGone
from darkq.protocol.keys import BatchKeys, JobKeys
from darkq.protocol.record import Failure, Outcome, read_result
from darkq.protocol.result import Result, build_result
from darkq.redis.durability import replicated
from darkq.redis.group_commit import count_fitting
from darkq.redis.pool import is_wrong_type

PAGE_LINES = 200
_POSITION = re.compile(r"(\d{1,15})(?:@(\d{1,17}))?", re.ASCII)


class Position(NamedTuple):
    """A position in the log of ends: after the entry `number`, which has this `stamp`.

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
    """A line's job has ended. `cursor` is the position of this end in the batch's log."""

    number: int
    job_id: str
    outcome: Literal["completed", "failed", "cancelled"]
    cursor: str


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a line ended, with its result or error.

    `completed` has a `result`, `failed` has `code` and `message`. A `missing` line has ended, but
    its result expired before it was taken: add it again, once this is acknowledged. A cancelled
    line has no result to lose, so it stays `cancelled`. `custom_id` is "" if it is lost: with the
    result, or in an unreadable job.
    """

    number: int
    custom_id: str
    job_id: str
    cursor: str
    outcome: Literal["completed", "failed", "cancelled", "missing"]
    result: Result | None = None
    code: str = ""
    message: str = ""

    def __repr__(self) -> str:
        return f"Finished(number={self.number}, outcome={self.outcome!r}, cursor={self.cursor!r})"


class Page(NamedTuple):
    """Ends after a position, and the state of the batch.

    `last`: no end will follow. `closed`: the input is closed, or the batch is cancelled.
    """

    ends: list[LineEnded]
    last: bool
    closed: bool
    acknowledged: int


async def acknowledged(redis: Redis, keys: BatchKeys) -> Position:
    """Return the position of the last acknowledged end. Raises `BatchNotFound`."""
    return await _position(redis, keys, (await read_batch(redis, keys)).acknowledged)


async def holds(redis: Redis, keys: BatchKeys, position: Position) -> bool:
    """Return True if the log still has the entry at a position."""
    return not position.stamp or await _position(redis, keys, position.number) == position


async def _position(redis: Redis, keys: BatchKeys, number: int) -> Position:
    entries = await redis.xrange(keys.ends, f"{number}-0", f"{number}-0")
    return Position(number, _stamp(entries[0][1]) if entries else "")


async def read_ends(redis: Redis, keys: BatchKeys, after: Position | None) -> Page:
    """Return the ends after a position, or after None all that are kept.

    Raises `CursorGone` if they have been trimmed, or if Redis has lost the entry at `after`, and
    `BatchNotFound`.
    """
    start = after.number if after is not None else 0
    # One transaction: `last` must not be true of an earlier moment than the entries.
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
    elif first.number > 1 or start == 1:
        # The first entry is the one at `after`: its stamp shows whether the log was rolled back.
        if after is not None and not (
            ends and first.number == after.number and after.stamp in ("", first.stamp)
        ):
            raise CursorGone(keys.public_id, str(after))
        del ends[:1]
    closed = total is not None or cancel is not None
    return Page(ends, closed and not running and not ends, closed, int(taken or 0))


async def split_by_size(redis: Redis, ends: Sequence[LineEnded]) -> list[Sequence[LineEnded]]:
    """Split ends into pages whose results are of a bounded number of bytes together."""
    sizes = await _sizes(redis, [JobKeys.parse(end.job_id).result for end in ends])
    pages = []
    start = 0
    while start < len(ends):
        stop = start + count_fitting(sizes[start:], max_items=PAGE_LINES)
        pages.append(ends[start:stop])
        start = stop
    return pages


async def read_results(redis: Redis, ends: Sequence[LineEnded]) -> list[Finished]:
    """Return ends with what is stored of their results."""
    records = await redis.mget([JobKeys.parse(end.job_id).result for end in ends])
    return [_finished(*each) for each in zip(ends, records, strict=True)]


async def _sizes(redis: Redis, names: Sequence[str]) -> list[int]:
    """Return the lengths of values; 0 for another type, for which MGET returns nothing."""
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
    cursor = Position(int(entry_id.split(b"-")[0]), _stamp(fields))
    return LineEnded(
        number=line,
        job_id=keys.job(line).public_id,
        outcome=cast(Outcome, fields[b"o"].decode()),
        cursor=str(cursor),
    )


def _stamp(fields: dict[bytes, bytes]) -> str:
    return fields.get(b"t", b"").decode()


def _finished(end: LineEnded, data: bytes | None) -> Finished:
    record = read_result(data, JobKeys.parse(end.job_id)) if data is not None else None
    # The log of ends says that a line was cancelled. Without its record it must not run after all.
    is_known = record is not None or end.outcome == "cancelled"
    failure = record.r if record is not None and isinstance(record.r, Failure) else None
    return Finished(
        number=end.number,
        custom_id=record.d.metadata.get("custom_id", "") if record is not None else "",
        job_id=end.job_id,
        cursor=end.cursor,
        outcome=end.outcome if is_known else "missing",
        result=build_result(record) if record is not None and failure is None else None,
        code=failure.code if failure else "",
        message=failure.message if failure else "",
    )


class Collected(Protocol):
    """A batch, as far as its ends are taken."""

    def collected(self) -> AsyncGenerator[list[Finished], None]: ...

    async def acknowledge(self, page: Sequence[Finished], /) -> None: ...

    async def number_at(self, cursor: str | None, /) -> int: ...


class Feeding(NamedTuple):
    """How the lines of a batch are added while its ends are taken."""

    add_all: Callable[[], Coroutine[Any, Any, None]]
    """Adds all lines, and closes the input."""
    add_lost: Callable[[], Coroutine[Any, Any, None]]
    """Adds the lines that Redis has lost."""
    add_again: Callable[[list[int]], Awaitable[None]]
    """Adds the lines of these numbers again, whose results have expired."""


async def take_ends(
    batch: Collected, after: str | None, feeding: Feeding | None = None
) -> AsyncGenerator[Finished, None]:
    """Yield the ends of a batch one by one, and acknowledge those that were taken.

    `after` is the cursor of the last end that the caller has taken before. With `feeding` the lines
    are added meanwhile, by a task of its own whose errors are raised here; an end without a result
    is not yielded, but its line is added again.

    When Redis has lost ends that were read, this reads again from those that it has as
    acknowledged, if there is a `feeding` to add lost lines again. An end that was yielded is not
    yielded a second time.
    """
    last = await batch.number_at(after)
    # Lines whose end was yielded and is not acknowledged yet. Numbers of ends would not do: after
    # a roll-back Redis gives the same number to the end of another line.
    taken = set[int]()
    feeder = _Feeder(feeding)
    is_closing = False

    def is_taken(end: Finished) -> bool:
        return Position.parse(end.cursor).number <= last or end.number in taken

    try:
        while True:
            try:
                async with aclosing(batch.collected()) as pages:
                    while (found := await feeder.next_page(pages)) is not None:
                        page = [_as_completed(end) if is_taken(end) else end for end in found]
                        count, is_whole = 0, False
                        try:
                            for end in page:
                                if not is_taken(end) and not feeder.adds_again(end):
                                    # A caller that leaves closes the generator at this `yield`,
                                    # so this end does not count as taken.
                                    is_closing = True
                                    yield end
                                    is_closing = False
                                    taken.add(end.number)
                                count += 1
                            is_whole = True
                        finally:
                            done = partial(batch.acknowledge, page[:count])
                            # A caller that leaves does not wait for replicas.
                            await (replicated(done) if is_whole else done())
                            taken.difference_update(end.number for end in page[:count])
                        await feeder.add_again(page)
                await feeder.wait()
                return
            except CursorGone:
                if feeding is None:
                    raise
                if is_closing:  # the next runner finds out what was lost
                    return
                last = 0  # after a roll-back these numbers may belong to other ends
                feeder.add_lost()
    finally:
        await feeder.stop()


def _as_completed(end: Finished) -> Finished:
    """To acknowledge a taken end as missing would run its line again."""
    return msgspec.structs.replace(end, outcome="completed") if end.outcome == "missing" else end


class _Feeder:
    """The task that adds lines while ends are taken; without `feeding` it does nothing."""

    def __init__(self, feeding: Feeding | None) -> None:
        self._feeding = feeding
        self._task = self._start(feeding.add_all()) if feeding else None

    async def next_page(self, pages: AsyncGenerator[list[Finished], None]) -> list[Finished] | None:
        """Return the next page, or None after the last one. Raises the task's error at once."""
        if self._task is None:
            return await anext(pages, None)
        step = asyncio.ensure_future(anext(pages, None))
        try:
            # Waits for the task too: with an input that is invalid there may never be a page.
            await asyncio.wait([step, self._task], return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
            return await step
        finally:
            step.cancel()
            await asyncio.wait([step])

    def adds_again(self, end: Finished) -> bool:
        """Return True for an end whose line is added again, instead of yielding it."""
        return self._feeding is not None and end.outcome == "missing"

    async def add_again(self, page: Sequence[Finished]) -> None:
        """Add the lines of a page again whose results have expired."""
        if self._feeding is not None:
            await self._feeding.add_again([end.number for end in page if self.adds_again(end)])

    def add_lost(self) -> None:
        """Add the lines that Redis has lost, once all lines have been added."""
        if self._feeding is not None and self._task is not None:
            self._task = self._start(self._add_lost_after(self._task, self._feeding))

    @staticmethod
    async def _add_lost_after(task: asyncio.Task[None], feeding: Feeding) -> None:
        await task
        await feeding.add_lost()

    async def wait(self) -> None:
        """Wait until all lines have been added. Raises the task's error."""
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @staticmethod
    def _start(feeding: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(feeding, name="darkq-batch-feed")
