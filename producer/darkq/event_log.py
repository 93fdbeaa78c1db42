"""A job's events from any point: the log first, then live, each exactly once and in order.

    subscribe ── read the log after the cursor ── follow the channel
                        ▲                               │
                        └── a hole, a gap, silence ─────┘

The log is the truth and the channel is only fast. A message counts when it is the very next
event after the cursor; anything else is either known already or a reason to read the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq import event as ev
from darkq import log_pages
from darkq.event import START, TERMINAL, AnyEvent, Cursor
from darkq.keys import JobKeys
from darkq.live import Live
from darkq.mailbox import Mailbox
from darkq.transport import is_away

T = TypeVar("T")

OUTAGE_PAUSE_S = 0.25
SILENCE_S = 30.0
"""After so long without a message a reader looks at the log, should the channel have failed."""


class EventBatch(list[AnyEvent]):
    """Events that come together.

    `came_s` is when the first of them came live, as `time.perf_counter` tells it; None when they
    were read from the log.
    """

    __slots__ = ("came_s",)

    def __init__(self, events: Iterable[AnyEvent], came_s: float | None = None) -> None:
        super().__init__(events)
        self.came_s = came_s


async def tail(
    redis: Redis, live: Live, keys: JobKeys, after: Cursor = START
) -> AsyncGenerator[EventBatch, None]:
    """Yield a job's events after a cursor, in batches as they come, to the terminal one.

    Raises `JobNotFound` at once for an unknown id, `CursorGone` when the log no longer holds
    what follows the cursor, and what redis-py raises when Redis cannot be reached at first;
    later it waits for as long as Redis is away. May be closed or cancelled at any point, and
    resumed from the last event's cursor.
    """
    reader = _Reader(redis, keys, after)
    mailbox = Mailbox(on_overflow=live.overflowed)
    async with live.subscribed(keys.live, mailbox):
        while True:
            mailbox.forget()
            async with aclosing(reader.catch_up()) as pages:
                async for page in pages:
                    yield EventBatch(page)
            whole = not reader.ended
            while whole and (messages := await mailbox.take(SILENCE_S)) is not None:
                events, whole = reader.follow(messages)
                if events:
                    yield EventBatch(events, mailbox.came_s)
            if reader.ended:
                return


async def history(redis: Redis, keys: JobKeys) -> AsyncGenerator[list[AnyEvent], None]:
    """Yield what the log holds now, without waiting for more. Raises as `tail` does."""
    async with aclosing(_Reader(redis, keys, START).catch_up()) as pages:
        async for page in pages:
            yield page


class _Reader:
    """How far one reader has come, and whether the job has ended there."""

    def __init__(self, redis: Redis, keys: JobKeys, after: Cursor) -> None:
        self.ended = False
        self._cursor = after
        self._started: ev.Started | None = None
        self._redis = redis
        self._keys = keys
        self._reached_redis = False
        self._is_new = True

    async def catch_up(self) -> AsyncGenerator[list[AnyEvent], None]:
        """Yield what the log holds beyond the cursor, page by page."""
        page = await self._read_page()
        if not page:
            at_rest = partial(log_pages.at_rest, started=self._started, is_new=self._is_new)
            rest = await self._ask(at_rest)
            self.ended = rest is not None
            page = rest or []
        self._is_new = False
        while page:
            self._advance(page)
            yield page
            more = len(page) == log_pages.PAGE_EVENTS and not self.ended
            page = await self._read_page() if more else []

    async def _read_page(self) -> list[AnyEvent]:
        return await self._ask(partial(log_pages.read_page, started=self._started))

    def follow(self, messages: Sequence[bytes]) -> tuple[list[AnyEvent], bool]:
        """Return what live messages add, and whether they left no hole; nor did the job end."""
        events = [ev.decode(message) for message in messages]
        if any(self._begins_anew(event) for event in events):
            return [], False
        news = follow(self._cursor, events)
        self._advance(news.events)
        return news.events, not (news.hole or self.ended)

    def _begins_anew(self, event: AnyEvent) -> bool:
        """Tell an attempt that has the number of the one being read, and is not that one.

        Only a Redis that forgot what it had acknowledged gives a number twice.
        """
        seen = self._started
        return (
            isinstance(event, ev.Started)
            and seen is not None
            and event.id == seen.id
            and event != seen
        )

    def _advance(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            if isinstance(event, ev.Started):
                self._started = event
            elif isinstance(event, ev.Chunk):  # nearly all of them, and parsing a cursor costs
                continue
            elif event.cursor.seq == 0:  # a new number without it: handed on at once, or run again
                self._started = None
        if events:
            self._cursor = events[-1].cursor
            self.ended = self.ended or isinstance(events[-1], TERMINAL)

    async def _ask(self, question: Callable[[Redis, JobKeys, Cursor], Awaitable[T]]) -> T:
        """Ask Redis; once it has answered, wait for as long as it is away."""
        while True:
            try:
                answer = await question(self._redis, self._keys, self._cursor)
            except (RedisError, OSError) as error:
                if not self._reached_redis or not is_away(error):
                    raise
                await asyncio.sleep(OUTAGE_PAUSE_S)
            else:
                self._reached_redis = True
                return answer


class News(NamedTuple):
    """What live messages add after a cursor, and whether something is missing behind it."""

    events: list[AnyEvent]
    hole: bool


def follow(cursor: Cursor, messages: Sequence[AnyEvent]) -> News:
    """Keep the messages that come right after the cursor; stop at the first hole."""
    events: list[AnyEvent] = []
    for message in messages:
        at = message.cursor
        if at <= cursor:
            continue
        if not cursor.precedes(at):
            return News(events, hole=True)
        events.append(message)
        cursor = at
    return News(events, hole=False)
