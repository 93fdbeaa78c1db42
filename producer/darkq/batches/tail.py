"""All jobs of a batch as one stream: their events, and the end of each line.

Each open line has a task that tails its event log. The tasks share one bounded queue and the
process's subscriber connection. Ends are yielded in the order of the batch's log, each after all
events of its line. Redis has the events until the end is acknowledged: a reader that is slower than
the runner gets only the end.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.batches.results import PAGE_LINES, LineEnded, Position, read_ends
from darkq.errors import CursorGone, JobNotFound
from darkq.event import AnyEvent, Cursor
from darkq.jobs import tail as event_log
from darkq.jobs.mailbox import Mailbox
from darkq.protocol.keys import BatchKeys
from darkq.redis.pubsub import Live

SILENCE_S = 30.0
_QUEUED = Cursor(0, 1)
"""The `queued` event. Each line has it, so it is not yielded."""

_QUEUE_ITEMS = 64
_MAX_CURSOR_CHARS = 1 << 20
_LINE_CURSOR = re.compile(r"([1-9]\d{0,8}):(\d+-\d+)")


class LineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a line's job. `cursor` is a position in the whole batch."""

    number: int
    job_id: str
    event: AnyEvent
    cursor: str


class BatchCursor(msgspec.Struct):
    """The position of a reader: after which end, and after which event of each unfinished line.

    As a string: `12@1790000000000000,31:1-4,40:2-0`.
    """

    ends: Position
    lines: dict[int, Cursor] = msgspec.field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> BatchCursor:
        """Read a cursor. Raises `ValueError`."""
        ends, *parts = text.split(",") if len(text) <= _MAX_CURSOR_CHARS else [""]
        found = [_LINE_CURSOR.fullmatch(part) for part in parts]
        lines = {int(m[1]): Cursor.parse(m[2]) for m in found if m is not None}
        try:
            position = Position.parse(ends if None not in found else "")
        except ValueError:
            expected = "expected one as in 12@1790000000000000 or 12,31:1-4"
            raise ValueError(f"not a cursor of a batch; {expected}") from None
        return cls(position, lines)

    def __str__(self) -> str:
        return ",".join([str(self.ends), *(f"{line}:{at}" for line, at in self.lines.items())])


_News: TypeAlias = tuple[int, list[AnyEvent]] | int | Exception | None
"""Events of a line; a line without further events; what a tail raised; None: read the batch."""


class BatchTail:
    """One reader of a batch. Use `items` once."""

    def __init__(
        self, redis: Redis, live: Live, keys: BatchKeys, cursor: BatchCursor | None
    ) -> None:
        self._redis = redis
        self._live = live
        self._keys = keys
        self._cursor = cursor or BatchCursor(Position(0))
        self._known = cursor.ends if cursor else None  # the last end read; `_ends` may wait yet
        self._ends: deque[LineEnded] = deque()  # read, but not yielded
        self._last = False
        self._stale = False  # the batch has changed since it was read
        self._drained: set[int] = set()  # lines whose events have all been yielded
        self._tails: dict[int, asyncio.Task[None]] = {}
        self._news: asyncio.Queue[_News] = asyncio.Queue(_QUEUE_ITEMS)

    async def items(self) -> AsyncGenerator[LineEvent | LineEnded, None]:
        """Yield everything after the cursor, until the batch ends.

        Raises `BatchNotFound`, `CursorGone`, and what redis-py raises.
        """
        mailbox = Mailbox()
        async with self._live.subscribed(self._keys.live, mailbox):
            watcher = asyncio.create_task(self._watch(mailbox), name="darkq-batch-watch")
            try:
                while not (self._last and not self._ends):
                    for item in await self._next_items():
                        yield item
            finally:
                tasks = [watcher, *self._tails.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _next_items(self) -> list[LineEvent | LineEnded]:
        """Wait for news, and return the items that it adds."""
        news = await self._news.get()
        items: list[LineEvent | LineEnded] = []
        if isinstance(news, Exception):
            raise news
        if news is None:
            self._stale = True
        elif isinstance(news, int):
            self._drained.add(news)
        else:
            items += self._events(*news)
        while True:
            while self._ends and self._ends[0].number in self._drained:
                items.append(self._end(self._ends.popleft()))
            # A page of ends that wait for their tails is enough: more would take memory, and tasks.
            if not self._stale or len(self._ends) >= PAGE_LINES:
                return items
            await self._read_batch()

    def _events(self, line: int, events: list[AnyEvent]) -> list[LineEvent]:
        job_id = self._keys.job(line).public_id
        items = []
        for event in events:
            self._cursor.lines[line] = event.cursor
            cursor = str(self._cursor)
            items.append(LineEvent(number=line, job_id=job_id, event=event, cursor=cursor))
        return items

    def _end(self, end: LineEnded) -> LineEnded:
        self._cursor.ends = Position.parse(end.cursor)
        self._cursor.lines.pop(end.number, None)
        self._drained.discard(end.number)
        self._tails.pop(end.number, None)
        return msgspec.structs.replace(end, cursor=str(self._cursor))

    async def _read_batch(self) -> None:
        # The open lines first. A line that ends in between is then among both: it gets a tail, and
        # its end waits for it. In the other order it could be in neither.
        open_lines = await self._redis.zrangebyscore(self._keys.lines, 0, 0)
        page = await read_ends(self._redis, self._keys, self._known)
        self._last, self._stale = page.last, bool(page.ends)
        if self._known is None:
            first = Position.parse(page.ends[0].cursor).number if page.ends else 1
            self._cursor.ends = Position(first - 1)
            self._known = self._cursor.ends
        self._ends.extend(page.ends)
        if page.ends:
            self._known = Position.parse(page.ends[-1].cursor)
        for end in page.ends:
            position = Position.parse(end.cursor)
            # Acknowledged, so its events are deleted. A tail that is running may still have some.
            if position.number <= page.acknowledged and end.number not in self._tails:
                self._drained.add(end.number)
        for line in [*map(int, open_lines), *(end.number for end in page.ends)]:
            if line not in self._tails and line not in self._drained:
                name = f"darkq-batch-tail-{line}"
                self._tails[line] = asyncio.create_task(self._follow(line), name=name)

    async def _follow(self, line: int) -> None:
        after = self._cursor.lines.get(line, _QUEUED)
        tail = event_log.tail(self._redis, self._live, self._keys.job(line), after)
        try:
            async with aclosing(tail) as batches:
                async for events in batches:
                    await self._news.put((line, events))
        except (JobNotFound, CursorGone):  # acknowledged, and so deleted, before it was read
            pass
        except Exception as error:
            await self._news.put(error)
        await self._news.put(line)  # also then: its end must not wait for this tail any longer

    async def _watch(self, mailbox: Mailbox) -> None:
        """Request a read of the batch, at first and after each change."""
        while True:
            mailbox.forget()  # before the read: a change during it requests another
            await self._news.put(None)
            await mailbox.take(SILENCE_S)
