"""Read a job's events after a cursor: the log first, then live, each exactly once and in order.

    subscribe ── read the log after the cursor ── follow the channel
                        ▲                               │
                        └── missing event, overflow, silence

The log is authoritative; the channel is only the fast path, and may lose messages. A message is
used if it is the next event after the cursor. Earlier events are duplicates; for later ones the
reader returns to the log. Subscribing comes first, so that no event is between the log and the
channel.

`tail` and `read_history` raise darkq's errors, all other functions those of redis-py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq import event as ev
from darkq.errors import CursorGone, JobNotFound
from darkq.event import PIECES, START, TERMINAL, AnyEvent, Cursor
from darkq.jobs.mailbox import Mailbox
from darkq.jobs.status import read_status
from darkq.jobs.tail_span import TailSpan
from darkq.protocol.answer_events import answer_to_events
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.protocol.record import Failure, ResultRecord, build_result, read_result
from darkq.redis.connections import is_away
from darkq.redis.pool import speaking_darkq
from darkq.redis.pubsub import Live

T = TypeVar("T")

OUTAGE_PAUSE_S = 0.25
SILENCE_S = 30.0
"""After this time without a message a reader reads the log, in case the channel has failed."""


class EventBatch(list[AnyEvent]):
    """Events that arrived together.

    `came_s` is the arrival time of the first live one (`time.perf_counter`); None for events from
    the log.
    """

    __slots__ = ("came_s",)

    def __init__(self, events: Iterable[AnyEvent], came_s: float | None = None) -> None:
        super().__init__(events)
        self.came_s = came_s


async def tail(
    redis: Redis, live: Live, keys: JobKeys, after: Cursor = START
) -> AsyncGenerator[EventBatch, None]:
    """Yield a job's events after a cursor, in batches as they arrive, to the terminal one.

    Raises `JobNotFound` for an unknown id, `CursorGone` if the log no longer has the events after
    the cursor, and `RedisUnavailable` if the first call to Redis fails. Later it waits until Redis
    is back. May be closed or cancelled at any point, and resumed from the last event's cursor.
    """
    reader = LogReader(redis, keys, after)
    mailbox = Mailbox(on_overflow=live.overflowed)
    started = partial(read_started, redis, keys)
    async with speaking_darkq(), live.subscribed(keys.live, mailbox):
        with TailSpan(keys) as span:
            await span.begin(after, started)
            while True:
                # Before the log is read: a message that arrives during the read must stay.
                mailbox.forget()
                while page := await reader.next_page():
                    span.record(page)
                    yield EventBatch(page)
                # Follow the channel until events are missing; then read the log again.
                whole = not reader.ended
                while whole and (messages := await mailbox.take(SILENCE_S)) is not None:
                    events, whole = reader.follow(messages)
                    if events:
                        span.record(events)
                        yield EventBatch(events, mailbox.came_s)
                if reader.ended:
                    return


async def read_history(
    redis: Redis, keys: JobKeys, after: Cursor = START
) -> AsyncGenerator[list[AnyEvent], None]:
    """Yield the events that the log has now after a cursor, without waiting for more.

    Raises the errors of `tail`.
    """
    reader = LogReader(redis, keys, after)
    async with speaking_darkq():
        while page := await reader.next_page():
            yield page


class LogReader:
    """The cursor of one reader, and whether the job has ended there."""

    __slots__ = (
        *("_at_end", "_is_new", "_keys", "_reached_redis", "_redis"),
        *("cursor", "ended", "started"),
    )

    def __init__(self, redis: Redis, keys: JobKeys, after: Cursor) -> None:
        self.ended = False
        self.cursor = after
        self.started: ev.Started | None = None
        """The first event of the cursor's attempt, if it was read."""
        self._redis = redis
        self._keys = keys
        # An unreachable Redis is an error at first, as a wrong URL is, and an outage afterwards.
        self._reached_redis = False
        self._is_new = True
        # After a short page the log has no more, so the next call returns empty without a read.
        self._at_end = False

    def at(self, cursor: Cursor, started: ev.Started | None) -> LogReader:
        """Return a reader that has come to a cursor without reading."""
        reader = LogReader(self._redis, self._keys, cursor)
        reader.started = started
        reader._reached_redis = True
        reader._is_new = False
        return reader

    async def next_page(self) -> list[AnyEvent]:
        """Return the next page of the log after the cursor; empty if there is none now."""
        if self._at_end or self.ended:
            self._at_end = False  # the next call reads the log again
            return []
        page = await self._read_page()
        if not page:
            rest = await self._retry(
                partial(read_remaining, started=self.started, is_new=self._is_new)
            )
            self.ended = rest is not None
            page = rest or []
        self._is_new = False
        self._advance(page)
        self._at_end = 0 < len(page) < PAGE_EVENTS
        return page

    async def _read_page(self) -> list[AnyEvent]:
        return await self._retry(partial(read_page, started=self.started))

    def follow(self, messages: Sequence[bytes]) -> tuple[list[AnyEvent], bool]:
        """Return the new events, and True if there was no gap and the job is still running."""
        events = [ev.decode(message) for message in messages]
        for event in events:
            # Then the log decides: `next_page` compares it with the attempt that was read.
            if isinstance(event, ev.Started) and self._restarts_attempt(event):
                return [], False
        news = follow(self.cursor, events)
        self._advance(news.events, news.cursor)
        return news.events, not (news.gap or self.ended)

    def _restarts_attempt(self, event: ev.Started) -> bool:
        """Return whether an event starts another run with the number of the current attempt.

        This happens only if Redis lost acknowledged writes, for example in a failover.
        """
        seen = self.started
        return seen is not None and event.id == seen.id and event != seen

    def _advance(self, events: Sequence[AnyEvent], cursor: Cursor | None = None) -> None:
        for event in events:
            if isinstance(event, ev.Started):
                self.started = event
            elif isinstance(event, PIECES):  # most events: skip the slow parsing of the cursor
                continue
            elif event.cursor.seq == 0:  # a new attempt number without `started`, as after a retry
                self.started = None
        if events:
            self.cursor = cursor or events[-1].cursor
            self.ended = self.ended or isinstance(events[-1], TERMINAL)

    async def _retry(self, read: Callable[[Redis, JobKeys, Cursor], Awaitable[T]]) -> T:
        """Call Redis. If it has answered this reader before, repeat until it is back."""
        while True:
            try:
                answer = await read(self._redis, self._keys, self.cursor)
            except (RedisError, OSError) as error:
                if not self._reached_redis or not is_away(error):
                    raise
                await asyncio.sleep(OUTAGE_PAUSE_S)
            else:
                self._reached_redis = True
                return answer


class News(NamedTuple):
    """The live events that continue a cursor, whether some are missing then, and the new cursor."""

    events: list[AnyEvent]
    gap: bool
    cursor: Cursor = START


def follow(cursor: Cursor, messages: Sequence[AnyEvent]) -> News:
    """Return the messages that directly continue the cursor, up to the first gap."""
    events: list[AnyEvent] = []
    for message in messages:
        attempt, seq = cursor
        if message.id == f"{attempt}-{seq + 1}":  # nearly always, and faster than reading the id
            events.append(message)
            cursor = Cursor(attempt, seq + 1)
        elif message.cursor > cursor:
            return News(events, True, cursor)
    return News(events, False, cursor)


PAGE_EVENTS = 256

_Entry: TypeAlias = tuple[bytes, dict[bytes, bytes]]


async def read_last_cursor(redis: Redis, keys: JobKeys) -> Cursor:
    """Return the cursor of the log's last event, or `START` if there is no log."""
    last = await redis.xrevrange(keys.events, count=1)
    return Cursor.parse(last[0][0]) if last else START


async def find_latest_attempt(redis: Redis, keys: JobKeys) -> Cursor:
    """Return the cursor of the event before the latest attempt, or `START`.

    Between two attempts it is the cursor before the `retrying` event, which has the reason and the
    delay. An attempt whose worker was lost has no such event: then it is the end of the log. It is
    always the cursor of an event in the log, because readers get `CursorGone` for any other.
    """
    last = await redis.xrevrange(keys.events, count=1)
    if not last:
        return START
    event = ev.decode(last[0][1][b"e"])
    if isinstance(event, (ev.Started, *PIECES)):
        status = await read_status(redis, keys)
        if status.state in ("queued", "deferred"):
            return event.cursor
    first = event.cursor if isinstance(event, ev.Retrying) else Cursor(event.cursor.attempt, 0)
    before = await redis.xrevrange(keys.events, f"({first}", count=1) if first > START else []
    return Cursor.parse(before[0][0]) if before else START


async def read_page(
    redis: Redis, keys: JobKeys, cursor: Cursor, *, started: AnyEvent | None = None
) -> list[AnyEvent]:
    """Return the next page of the log after a cursor; empty at its end.

    The events of an attempt have consecutive numbers. A gap in the log means that Redis lost data,
    and raises `CursorGone`. So does another run of the attempt, see `_read`.
    """
    span = ("XRANGE", keys.events, f"({cursor}", "+", "COUNT", PAGE_EVENTS)
    page = await _read(redis, keys, cursor, started, span)
    for event in page:
        at = event.cursor
        if not (cursor.precedes(at) or (at.attempt > cursor.attempt and at.seq == 0)):
            raise CursorGone(keys.public_id, str(cursor))
        cursor = at
    return page


async def _read(
    redis: Redis,
    keys: JobKeys,
    cursor: Cursor,
    started: AnyEvent | None,
    span: tuple[str | int, ...],
) -> list[AnyEvent]:
    """Read a span of the log, and in one transaction the first event of the reader's attempt.

    If Redis lost an attempt, another run gets its number, and begins with an event that differs
    from `started`: then raises `CursorGone`. It must be one call: after a failover, a second call
    would reach another server.
    """
    if started is None:
        alone: list[_Entry] = await cast(Any, redis.execute_command)(*span)
        return [_decode(entry) for entry in alone]
    at = str(Cursor(cursor.attempt, 0))
    async with redis.pipeline(transaction=True) as pipe:
        pipe.execute_command(*span)
        pipe.xrange(keys.events, at, at)
        entries, begun = await pipe.execute()
    if begun and _decode(begun[0]) != started:
        raise CursorGone(keys.public_id, str(cursor))
    return [_decode(entry) for entry in entries]


def _decode(entry: _Entry) -> AnyEvent:
    return ev.decode(entry[1][b"e"])


async def read_started(redis: Redis, keys: JobKeys, cursor: Cursor) -> AnyEvent | None:
    """Return the first event of the attempt at the cursor; None if the log does not have it."""
    at = str(Cursor(cursor.attempt, 0))
    entries = await redis.xrange(keys.events, at, at)
    return _decode(entries[0]) if entries else None


async def read_remaining(
    redis: Redis, keys: JobKeys, cursor: Cursor, *, started: AnyEvent | None, is_new: bool
) -> list[AnyEvent] | None:
    """Return the last events when the log has none after the cursor; None means wait for more.

    - At the terminal event, no events remain.
    - If the log has expired and the result has not, the events are made from the result.
    - A new reader with a cursor beyond the log gets `CursorGone`. A reader that was there before
      waits: Redis lost the latest writes, and the worker writes them again.
    - Another run of the attempt than the one of `started` raises `CursorGone`.
    """
    span = ("XREVRANGE", keys.events, "+", "-", "COUNT", 1)
    last = await _read(redis, keys, cursor, started, span)
    if last:
        (event,) = last
        has_ended = isinstance(event, TERMINAL)
        if cursor > event.cursor and (has_ended or is_new):
            raise CursorGone(keys.public_id, str(cursor))
        return [] if cursor == event.cursor and has_ended else None
    result, is_waiting = await _read_result_and_queue(redis, keys)
    if result is not None:
        if cursor != START:
            raise CursorGone(keys.public_id, str(cursor))
        return _result_to_events(read_result(result, keys))
    if not is_waiting:
        raise JobNotFound(keys.public_id)
    return None


async def _read_result_and_queue(redis: Redis, keys: JobKeys) -> tuple[bytes | None, bool]:
    """Return the result, and whether the job waits or runs, in one transaction.

    With separate calls, a job that ends in between would seem to be neither.
    """
    async with redis.pipeline(transaction=True) as pipe:
        pipe.get(keys.result)
        pipe.exists(keys.job)
        for priority in PRIORITIES:
            pipe.zscore(PartitionKeys(keys.partition).queue(priority), keys.arq_id)
        result, has_record, *scores = await pipe.execute()
    return result, bool(has_record) or any(score is not None for score in scores)


def _result_to_events(result: ResultRecord) -> list[AnyEvent]:
    """Return the events of a job whose log has expired: those of its answer, then the end."""
    pieces = [] if isinstance(result.r, Failure) else answer_to_events(build_result(result))
    end = Cursor(result.t, len(pieces) + 1 if pieces else 0)
    return [*pieces, build_terminal_event(result, end)]


def build_terminal_event(result: ResultRecord, at: Cursor) -> ev.Terminal:
    """Return the event that ends the job of a result record."""
    if isinstance(result.r, Failure):
        if result.r.type == "JobCancelled":
            return ev.Cancelled(id=str(at), at_ms=result.ft)
        return ev.Failed(id=str(at), code=result.r.code, message=result.r.message, at_ms=result.ft)
    return ev.Completed(
        id=str(at), finish_reason=result.d.finish_reason, usage=result.d.usage, at_ms=result.ft
    )
