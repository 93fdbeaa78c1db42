"""Adds lines to a batch, as fast as its window allows; and makes lines of rows.

A row is a prompt, a `Job`, a dict, a named tuple (as of `DataFrame.itertuples()`), or a `Line`.

`Feed` counts the room in the window itself, so that it does not send lines that Redis would refuse.
Redis has the authoritative count, and the two differ after a roll-back. So a feed that has waited
for some time sends a single line to find out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import asdict

from darkq.batches.lines import MAX_CUSTOM_ID_CHARS, ForAllLines, Line
from darkq.batches.status import BatchStatus
from darkq.errors import BatchClosed, BatchFull, BatchNotFound, InvalidJob, InvalidLine
from darkq.jobs.enqueue import Enqueuer
from darkq.protocol.job import Job
from darkq.protocol.keys import BatchKeys
from darkq.protocol.plain import to_plain
from darkq.protocol.prompt import Prompt
from darkq.redis.durability import replicated
from darkq.redis.group_commit import MAX_BYTES_PER_CALL
from darkq.redis.pool import speaking_darkq
from darkq.redis.scripts import EnqueueOutcome

LINES_PER_CALL = 200
_PAUSE_S = 0.5
_CLOSED = {"closed": "its input is closed", "cancelled": "it was cancelled"}
_STORED = ("new", "duplicate", "acknowledged")


class Feed:
    """Adds the lines of one runner to a batch, and waits for room in its window."""

    def __init__(self, keys: BatchKeys, orders: Enqueuer) -> None:
        self.window = 0
        self.last_line = 0
        self.added = 0
        """How many lines Redis has, unless it has lost some."""
        self._keys = keys
        self._orders = orders
        self._room = asyncio.Event()
        self._reader: asyncio.Task[object] | None = None
        self._outstanding: dict[int, Line] = {}
        self._free: int | None = None  # room in the window; None: only Redis knows
        self._forgotten = 0
        self._full = False  # the queue, not the window
        self._probe = 0  # how many lines to send while the room is unknown; 0: all

    def go_on_from(self, status: BatchStatus) -> None:
        """Take the counts from the batch's status."""
        self.window, self.last_line, self.added = status.window, status.last_line, status.added
        self._free = status.window - (status.added - status.acknowledged)

    async def put(self, lines: Iterable[Line], *, alone: bool = True) -> None:
        """Store lines in order, and wait for room where there is none.

        If `alone`, only a `reader` makes room; without one this raises `BatchFull` instead of
        waiting. Raises `InvalidLine`, `BatchClosed`, `BatchNotFound`, `RedisUnavailable` too.
        """
        left = iter(lines)
        while some := _next_call(left):
            self.last_line = max(self.last_line, *(line.number for line in some))
            while some := await self._try(some, alone=alone):
                await self._wait(alone=alone)

    async def put_all(self, lines: AsyncIterator[Line]) -> None:
        """Store lines as they come, and keep them until their end is acknowledged.

        As many as there are go into one call, without waiting for more: rows may come slowly.
        """
        queue: asyncio.Queue[Line] = asyncio.Queue(LINES_PER_CALL)

        async def pull() -> None:
            async for line in lines:
                await queue.put(line)

        puller = asyncio.create_task(pull(), name="darkq-batch-rows")
        try:
            while not (puller.done() and queue.empty()):
                waiting = asyncio.create_task(queue.get())
                await asyncio.wait([waiting, puller], return_when=asyncio.FIRST_COMPLETED)
                some = [waiting.result()] if waiting.done() else []
                waiting.cancel()
                while not queue.empty():
                    some.append(queue.get_nowait())
                self._outstanding.update((line.number, line) for line in some)
                await self.put(some, alone=False)
            await puller  # raises its error, after the lines before it are stored
        finally:
            puller.cancel()
            await asyncio.wait([puller])

    async def put_outstanding(self, status: BatchStatus) -> None:
        """Store all unacknowledged lines again: Redis may have lost some of them."""
        self.added, self._free = status.added, None
        await self.put(list(self._outstanding.values()), alone=False)

    async def put_again(self, numbers: Iterable[int]) -> None:
        """Store lines of `put_all` again whose results have expired. Their room is still theirs."""
        known = [self._outstanding[n] for n in numbers if n in self._outstanding]
        if known:
            self._free = None  # they fit even if our count says that there is no room
            await replicated(partial(self.put, known))

    def forget(self, numbers: Iterable[int]) -> None:
        """Count the room that acknowledged lines have left."""
        for number in numbers:
            self._outstanding.pop(number, None)
            self._forgotten += 1
            if self._free is not None:
                self._free += 1
        self._room.set()

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Note that results are taken, as long as this lasts."""
        self.reading()
        try:
            yield
        finally:
            self._reader = None

    def reading(self) -> None:
        """Note that the current task takes results."""
        self._reader = asyncio.current_task()

    async def _try(self, lines: list[Line], *, alone: bool) -> list[Line]:
        """Store as many lines as there is room for; return those that have to wait."""
        self._room.clear()
        count = None if self._makes_room_itself(alone=alone) else self._free
        if count is None and self._probe:
            count, self._probe = self._probe, 2 * self._probe
        some = lines if count is None else lines[: max(0, count)]
        if not some:
            return lines
        forgotten = self._forgotten
        verdicts = await self._put(some, alone=alone)
        self._full = "full" in verdicts
        for verdict in verdicts:
            if verdict == "gone":
                raise BatchNotFound(self._keys.public_id)
            if verdict in _CLOSED:
                raise BatchClosed(self._keys.public_id, _CLOSED[verdict])
        if "wait" in verdicts:
            # The window was full when Redis answered. What was acknowledged since is free.
            self._free, self._probe = self._forgotten - forgotten, 0
        elif self._free is not None:
            self._free -= verdicts.count("new")
        answered = list(zip(some, verdicts, strict=True))
        for line, verdict in answered:
            if verdict == "acknowledged":  # by an earlier runner: it will never end again
                self._outstanding.pop(line.number, None)
        left = [line for line, verdict in answered if verdict not in _STORED]
        return left + lines[len(some) :]

    async def _put(self, lines: list[Line], *, alone: bool) -> list[EnqueueOutcome]:
        """Store lines, and count them. With a reader beside it, also wait for replicas."""
        tries = 0

        async def put() -> list[EnqueueOutcome]:
            nonlocal tries
            tries += 1
            async with speaking_darkq():
                jobs = [(line.number, line.job) for line in lines]
                return await self._orders.put_lines(self._keys, jobs)

        verdicts = await (put() if alone else replicated(put))
        self.added += verdicts.count("new")
        if tries > 1:
            # Some duplicates were new on an earlier try. A count that is too high is harmless:
            # `close_input` then refuses, and all lines are added again.
            self.added += verdicts.count("duplicate")
        return verdicts

    async def _wait(self, *, alone: bool) -> None:
        """Wait for room. Raises `BatchFull` if only the current task could make it."""
        if not self._full and self._makes_room_itself(alone=alone):
            raise BatchFull(self._keys.public_id, self.window)
        try:
            async with asyncio.timeout(_PAUSE_S):
                await self._room.wait()
        except TimeoutError:
            # A queue with room again sends no message, and a window of which Redis has lost lines
            # has more room than we count. Probe with one line, then with twice as many each time.
            self._free, self._probe = None, 1

    def _makes_room_itself(self, *, alone: bool) -> bool:
        """Return True if no task but the current one takes results."""
        return alone and self._reader in (None, asyncio.current_task())


def _next_call(lines: Iterator[Line]) -> list[Line]:
    """Take the lines of one call, bounded by number and bytes. Raises `InvalidLine`."""
    some: list[Line] = []
    size = 0
    while len(some) < LINES_PER_CALL and size < MAX_BYTES_PER_CALL:
        line = next(lines, None)
        if line is None:
            break
        some.append(with_custom_id(line))
        size += line.job.prompt_bytes
    return some


Row: TypeAlias = Prompt | Job | Line | Mapping[str, Any] | tuple[Any, ...]

MAX_LINES = 50_000_000
"""Each line takes one bit of a string in Redis: six megabytes at most."""


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a row with its prompt and its id. Other columns are ignored."""

    prompt: str = "prompt"
    custom_id: str = "custom_id"


def row_to_line(row: Row, number: int, columns: Columns, common: ForAllLines) -> Line:
    """Make a line of a row; its job is checked. Raises `InvalidLine`."""
    if isinstance(row, Line):
        return row
    prompt: Any = row
    as_mapping = getattr(row, "_asdict", None)
    fields = as_mapping() if as_mapping is not None else None
    if isinstance(row, Mapping):
        fields = prompt
    custom_id = None
    if fields is not None:
        if columns.prompt not in fields:
            raise InvalidLine(number, columns.prompt, "is missing")
        prompt, custom_id = fields[columns.prompt], fields.get(columns.custom_id)
    try:
        if isinstance(prompt, Job):
            job = Job.create(**asdict(prompt))
        else:
            job = Job.create(prompt, **{name: getattr(common, name) for name in _COMMON})
    except InvalidJob as error:
        raise InvalidLine(number, error.field, error.reason) from None
    name = f"line-{number}" if custom_id is None else to_plain(str(custom_id))
    return Line(number=number, custom_id=name, job=job)


def with_custom_id(line: Line) -> Line:
    """Return a line whose job carries the line's `custom_id`. Raises `InvalidLine`."""
    if not 1 <= line.number <= MAX_LINES:
        raise InvalidLine(line.number, "line", f"its number must be from 1 to {MAX_LINES:,}")
    if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID_CHARS:
        reason = f"must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters"
        raise InvalidLine(line.number, "custom_id", reason)
    try:
        job = line.job.with_metadata(custom_id=line.custom_id)
    except InvalidJob as error:
        raise InvalidLine(line.number, error.field, error.reason) from None
    return msgspec.structs.replace(line, job=job)


async def rows_to_lines(
    rows: Iterable[Row] | AsyncIterable[Row], columns: Columns, common: ForAllLines
) -> AsyncIterator[Line]:
    """Yield rows as lines, from 1. Raises `InvalidLine`."""
    number = 0
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            number += 1
            yield row_to_line(row, number, columns, common)
    else:
        for row in rows:
            number += 1
            yield row_to_line(row, number, columns, common)


_COMMON = ("model", "upstream", "priority", "timeout_s", "tries", "options", "ignore_unsupported")
