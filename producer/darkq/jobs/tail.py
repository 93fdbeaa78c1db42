"""Read a job's events after a cursor: the log first, then live, each exactly once and in order.

    subscribe ── read the log after the cursor ── follow the channel
                        ▲                               │
                        └── missing event, overflow, silence

When a job completes, its log moves into its result, in one piece (`darkq.protocol.history`). That
is one step, so a reader finds all events in the log or all of them in the result.

The log is authoritative; the channel is only the fast path, and may lose messages. A message is
used if it is the next event after the cursor. Earlier events are duplicates; for later ones the
reader returns to the log. Subscribing comes first, so that no event is between the log and the
channel.

`tail` and `read_history` raise darkq's errors, all other functions those of redis-py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import NamedTuple, TypeAlias, TypeVar

from msgspec import MsgspecError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq import event as ev
from darkq.errors import CorruptRecord, CursorGone, JobNotFound
from darkq.event import PIECES, START, TERMINAL, AnyEvent, Cursor
from darkq.jobs.mailbox import Mailbox
from darkq.jobs.status import read_status
from darkq.jobs.tail_span import TailSpan
from darkq.protocol import history
from darkq.protocol.answer_events import answer_to_events, build_terminal_event, merge_pieces
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.protocol.record import Failure, History, ResultRecord, read_result
from darkq.protocol.result import build_result
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
    redis: Redis, live: Live, keys: JobKeys, after: Cursor = START, *, compact: bool = False
) -> AsyncGenerator[EventBatch, None]:
    """Yield a job's events after a cursor, in batches as they arrive, to the terminal one.

    With `compact`, past pieces are merged.

    Raises `JobNotFound` for an unknown id, `CursorGone` if the log no longer has the events after
    the cursor, and `RedisUnavailable` if the first call to Redis fails. Later it waits until Redis
    is back. May be closed or cancelled at any point, and resumed from the last event's cursor.
    """
    reader = LogReader(redis, keys, after, compact=compact)
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
    redis: Redis, keys: JobKeys, after: Cursor = START, *, compact: bool = False
) -> AsyncGenerator[list[AnyEvent], None]:
    """Yield the events that the log has now after a cursor, without waiting for more.

    Raises the errors of `tail`.
    """
    reader = LogReader(redis, keys, after, compact=compact)
    async with speaking_darkq():
        while page := await reader.next_page():
            yield page


class LogReader:
    """The cursor of one reader, and whether the job has ended there."""

    __slots__ = (
        *("_at_end", "_compact", "_is_new", "_keys", "_reached_redis", "_redis", "_rest"),
        *("cursor", "ended", "started"),
    )

    def __init__(
        self, redis: Redis, keys: JobKeys, after: Cursor, *, compact: bool = False
    ) -> None:
        self.ended = False
        self.cursor = after
        self.started: ev.Started | None = None
        """The first event of the cursor's attempt, if it was read."""
        self._redis = redis
        self._keys = keys
        self._compact = compact
        # An unreachable Redis is an error at first, as a wrong URL is, and an outage afterwards.
        self._reached_redis = False
        self._is_new = True
        # After a short page the log has no more, so the next call returns empty without a read.
        self._at_end = False
        self._rest: Iterator[list[AnyEvent]] | None = None

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
        page: list[AnyEvent] = []
        if self._rest is None:
            page, self._rest = await self._retry(
                partial(read_log, started=self.started, is_new=self._is_new)
            )
        else:
            await asyncio.sleep(0)  # this page needs no call, so let other tasks run
        if self._rest is not None:
            page = next(self._rest, [])
            self.ended = not page
        self._is_new = False
        self._advance(page)
        self._at_end = 0 < len(page) < PAGE_EVENTS
        return merge_pieces(page) if self._compact else page

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
            if isinstance(event, PIECES):  # most events: skip the slow parsing of the cursor
                continue
            if isinstance(event, ev.Started):
                self.started = event
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
    if last:
        return Cursor.parse(last[0][0])
    found = await _find_history(redis, keys)
    return history.read_end(*found) if found else START


async def find_latest_attempt(redis: Redis, keys: JobKeys) -> Cursor:
    """Return the cursor of the event before the latest attempt, or `START`.

    Between two attempts it is the cursor before the `retrying` event, which has the reason and the
    delay. An attempt whose worker was lost has no such event: then it is the end of the log. It is
    always the cursor of an event in the log, because readers get `CursorGone` for any other.
    """
    last = await redis.xrevrange(keys.events, count=1)
    if last:
        event = ev.decode(last[0][1][b"e"])
        if isinstance(event, (ev.Started, *PIECES)):
            status = await read_status(redis, keys)
            if status.state in ("queued", "deferred"):
                return event.cursor
        first = event.cursor if isinstance(event, ev.Retrying) else Cursor(event.cursor.attempt, 0)
        if first == START:
            return START
        before = await redis.xrevrange(keys.events, f"({first}", count=1)
        if before:
            return Cursor.parse(before[0][0])
    # There is no log any more, maybe since a moment ago.
    found = await _find_history(redis, keys)
    earlier = history.read_beginning(found[1])[:-1] if found else []
    return earlier[-1].cursor if earlier else START


async def _find_history(redis: Redis, keys: JobKeys) -> tuple[ResultRecord, History] | None:
    """Return the history of a completed job; None if it has none."""
    result = await redis.get(keys.result)
    if result is None:
        return None
    record = _read_checked(result, keys)
    return (record, record.h) if record.h else None


def _read_checked(result: bytes, keys: JobKeys) -> ResultRecord:
    """Read a result whose history fits it. Raises `CorruptRecord`, `NewerRecord`."""
    record = read_result(result, keys)
    try:
        if record.h:
            history.check(record, record.h)
    except (ValueError, LookupError, RecursionError, MsgspecError):  # may quote the record
        raise CorruptRecord(keys.public_id, record.d.tenant) from None
    return record


async def read_log(
    redis: Redis, keys: JobKeys, cursor: Cursor, *, started: AnyEvent | None, is_new: bool
) -> tuple[list[AnyEvent], Iterator[list[AnyEvent]] | None]:
    """Return the next page of the log after a cursor, or all that remains, in pages.

    See `read_page` and `read_remaining`. A new reader of a completed job needs one round trip.
    """
    page, result = await read_page(redis, keys, cursor, started=started, with_result=is_new)
    if page:
        return page, None
    if result is not None and (record := _read_checked(result, keys)).h:
        return [], _read_history(record, record.h, keys, cursor, started)
    return [], await read_remaining(redis, keys, cursor, started=started, is_new=is_new)


async def read_page(
    redis: Redis,
    keys: JobKeys,
    cursor: Cursor,
    *,
    started: AnyEvent | None = None,
    with_result: bool = False,
) -> tuple[list[AnyEvent], bytes | None]:
    """Return the next page of the log after a cursor, and the result if it was asked for.

    The page is empty at the end of the log. The events of an attempt have consecutive numbers. A
    gap in the log means that Redis lost data, and raises `CursorGone`. So does another run of the
    attempt, see `_read`.
    """
    span = ("XRANGE", keys.events, f"({cursor}", "+", "COUNT", PAGE_EVENTS)
    page, result = await _read(redis, keys, cursor, started, span, with_result=with_result)
    _check_order(page, cursor, keys)
    return page, result


def _check_order(events: Iterable[AnyEvent], cursor: Cursor, keys: JobKeys) -> None:
    """Raise `CursorGone` if events after a cursor are missing."""
    attempt, seq = cursor
    for event in events:
        if event.id == f"{attempt}-{seq + 1}":  # nearly always, and faster than reading the id
            seq += 1
        elif (at := event.cursor).attempt > attempt and at.seq == 0:
            attempt, seq = at
        else:
            raise CursorGone(keys.public_id, f"{attempt}-{seq}")


async def _read(
    redis: Redis,
    keys: JobKeys,
    cursor: Cursor,
    started: AnyEvent | None,
    span: tuple[str | int, ...],
    *,
    with_result: bool,
) -> tuple[list[AnyEvent], bytes | None]:
    """Read a span of the log, and at the same time what else is needed.

    That is the result, if asked for, and the first event of the reader's attempt. If Redis lost an
    attempt, another run gets its number, and begins with an event that differs from `started`: then
    raises `CursorGone`. It must be one call: after a failover, a second call would reach another
    server.
    """
    at = str(Cursor(cursor.attempt, 0))
    async with redis.pipeline(transaction=started is not None) as pipe:
        pipe.execute_command(*span)
        if with_result:
            pipe.get(keys.result)
        if started is not None:
            pipe.xrange(keys.events, at, at)
        replies = await pipe.execute()
    entries: list[_Entry] = replies.pop(0)
    result: bytes | None = replies.pop(0) if with_result else None
    begun: list[_Entry] = replies.pop() if started is not None else []
    if begun and _decode(begun[0]) != started:
        raise CursorGone(keys.public_id, str(cursor))
    return [_decode(entry) for entry in entries], result


def _decode(entry: _Entry) -> AnyEvent:
    return ev.decode(entry[1][b"e"])


async def read_started(redis: Redis, keys: JobKeys, cursor: Cursor) -> AnyEvent | None:
    """Return the first event of the attempt at the cursor; None if the log does not have it."""
    at = str(Cursor(cursor.attempt, 0))
    entries = await redis.xrange(keys.events, at, at)
    if entries:
        return _decode(entries[0])
    found = await _find_history(redis, keys)
    return _find_started(history.read_beginning(found[1]), cursor) if found else None


def _find_started(events: Iterable[AnyEvent], cursor: Cursor) -> AnyEvent | None:
    at = str(Cursor(cursor.attempt, 0))
    return next((event for event in events if event.id == at), None)


async def read_remaining(
    redis: Redis, keys: JobKeys, cursor: Cursor, *, started: AnyEvent | None, is_new: bool
) -> Iterator[list[AnyEvent]] | None:
    """Return the last events when the log has none after the cursor; None means wait for more.

    - At the terminal event, no events remain.
    - The log of a completed job may be in its result.
    - If the log has expired and the result has not, the events are made from the result.
    - A new reader with a cursor beyond the log gets `CursorGone`. A reader that was there before
      waits: Redis lost the latest writes, and the worker writes them again.
    - Another run of the attempt than the one of `started` raises `CursorGone`.
    """
    span = ("XREVRANGE", keys.events, "+", "-", "COUNT", 1)
    last, result = await _read(redis, keys, cursor, started, span, with_result=True)
    if last:
        (event,) = last
        has_ended = isinstance(event, TERMINAL)
        if cursor > event.cursor and (has_ended or is_new):
            raise CursorGone(keys.public_id, str(cursor))
        return iter(()) if cursor == event.cursor and has_ended else None
    is_waiting = False
    if result is None:
        result, is_waiting = await _read_result_and_queue(redis, keys)
    if result is not None:
        record = _read_checked(result, keys)
        if record.h:
            return _read_history(record, record.h, keys, cursor, started)
        if cursor != START:
            raise CursorGone(keys.public_id, str(cursor))
        return iter([_result_to_events(record)])
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


def _read_history(
    record: ResultRecord,
    found: History,
    keys: JobKeys,
    cursor: Cursor,
    started: AnyEvent | None,
) -> Iterator[list[AnyEvent]]:
    """Return the pages of a history after a cursor. Raises `CursorGone` as `read_page` does."""
    beginning = history.read_beginning(found)
    begun = _find_started(beginning, cursor)
    is_another_run = started is not None and begun is not None and begun != started
    if cursor > history.read_end(record, found) or is_another_run:
        raise CursorGone(keys.public_id, str(cursor))
    beginning = [event for event in beginning if event.cursor > cursor]
    _check_order(beginning, cursor, keys)
    events = chain(beginning, history.read_rest(record, found, cursor))
    return iter(lambda: list(islice(events, PAGE_EVENTS)), [])


def _result_to_events(result: ResultRecord) -> list[AnyEvent]:
    """Return the events of a job whose log has expired: those of its answer, then the end."""
    pieces = [] if isinstance(result.r, Failure) else answer_to_events(build_result(result))
    end = Cursor(result.t, len(pieces) + 1 if pieces else 0)
    return [*pieces, build_terminal_event(result, end)]
