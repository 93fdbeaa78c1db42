"""A job's events from any point: the log first, then live, each exactly once and in order.

    subscribe ── read the log after the cursor ── follow the channel
                        ▲                               │
                        └── a hole, a gap, silence ─────┘

The log is the truth and the channel is only fast. A message counts when it is the very next
event after the cursor; anything else is either known already or a reason to read the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CursorGone, JobNotFound
from darkq.event import START, TERMINAL, AnyEvent, Cursor
from darkq.keys import PRIORITIES, JobKeys, queue
from darkq.live import Live
from darkq.mailbox import Mailbox
from darkq.record import Failure, ResultRecord, decode_result

PAGE_EVENTS = 256
SILENCE_S = 30.0
"""After so long without a message a reader looks at the log, should the channel have failed."""


async def tail(
    redis: Redis, live: Live, keys: JobKeys, after: Cursor = START
) -> AsyncGenerator[list[AnyEvent], None]:
    """Yield a job's events after a cursor, in batches as they come, to the terminal one.

    Raises `JobNotFound` at once for an unknown id, `CursorGone` when the log no longer holds
    what follows the cursor, and what redis-py raises when Redis is away for longer than its
    retries. May be closed or cancelled at any point, and resumed from the last event's cursor.
    """
    cursor = after
    mailbox = Mailbox()
    async with live.subscribed(keys.live, mailbox):
        while True:
            mailbox.forget()
            caught_up = cursor
            while page := await _read(redis, keys, cursor):
                yield page
                cursor = page[-1].cursor
                if isinstance(page[-1], TERMINAL):
                    return
            if cursor == caught_up and (rest := await _at_rest(redis, keys, cursor)) is not None:
                if rest:
                    yield rest
                return
            while (messages := await mailbox.take(SILENCE_S)) is not None:
                news = follow(cursor, [ev.decode(message) for message in messages])
                if news.events:
                    yield news.events
                    cursor = news.events[-1].cursor
                    if isinstance(news.events[-1], TERMINAL):
                        return
                if news.hole:
                    break


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


async def last_cursor(redis: Redis, keys: JobKeys) -> Cursor:
    """Return the place of the log's last event, or `START` when there is no log."""
    last = await redis.xrevrange(keys.events, count=1)
    return Cursor.parse(last[0][0]) if last else START


async def _read(redis: Redis, keys: JobKeys, cursor: Cursor) -> list[AnyEvent]:
    """Return the next page of the log after a cursor; empty at its end.

    An attempt's events are numbered without a hole; one in the log itself is data lost by
    Redis, and raises `CursorGone`.
    """
    entries = await redis.xrange(keys.events, f"({cursor}", "+", count=PAGE_EVENTS)
    page = [ev.decode(fields[b"e"]) for _, fields in entries]
    for event in page:
        at = event.cursor
        if not (cursor.precedes(at) or (at.attempt > cursor.attempt and at.seq == 0)):
            raise CursorGone(keys.public_id, str(cursor))
        cursor = at
    return page


async def _at_rest(redis: Redis, keys: JobKeys, cursor: Cursor) -> list[AnyEvent] | None:
    """Say what remains when the log holds nothing after the cursor; None: wait for more.

    The cursor may stand on the terminal event, and then nothing remains. The log may have
    expired while the result has not, and then the result stands in for it.
    """
    last = await redis.xrevrange(keys.events, count=1)
    if last:
        event = ev.decode(last[0][1][b"e"])
        if not isinstance(event, TERMINAL):
            return None
        if cursor > event.cursor:
            raise CursorGone(keys.public_id, str(cursor))
        return [] if cursor == event.cursor else None
    result = await redis.get(keys.result)
    if result is not None:
        if cursor != START:
            raise CursorGone(keys.public_id, str(cursor))
        return _from_result(decode_result(result))
    if not await _is_waiting(redis, keys):
        raise JobNotFound(keys.public_id)
    return None


async def _is_waiting(redis: Redis, keys: JobKeys) -> bool:
    if await redis.exists(keys.job):
        return True
    for priority in PRIORITIES:
        if await redis.zscore(queue(keys.partition, priority), keys.arq_id) is not None:
            return True
    return False


def _from_result(result: ResultRecord) -> list[AnyEvent]:
    """A finished job whose log has expired: the whole text in one chunk, then the end."""
    at = Cursor(result.t, 0)
    if isinstance(result.r, str):
        chunk = ev.Chunk(id=str(Cursor(at.attempt, 1)), text=result.r, merged=result.d.chunks)
        return [chunk, terminal_event(result, Cursor(at.attempt, 2))]
    return [terminal_event(result, at)]


def terminal_event(result: ResultRecord, at: Cursor) -> ev.Terminal:
    """Return the event that ends the job of a result record."""
    if isinstance(result.r, Failure):
        if result.r.type == "JobCancelled":
            return ev.Cancelled(id=str(at), at_ms=result.ft)
        return ev.Failed(id=str(at), code=result.r.code, message=result.r.message, at_ms=result.ft)
    return ev.Completed(
        id=str(at), finish_reason=result.d.finish_reason, usage=result.d.usage, at_ms=result.ft
    )
