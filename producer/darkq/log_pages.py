"""What a job's event log holds, and what remains when it holds nothing more: one question each.

Every function raises what redis-py raises.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CursorGone, JobNotFound
from darkq.event import START, TERMINAL, AnyEvent, Cursor
from darkq.keys import PRIORITIES, JobKeys, queue
from darkq.record import Failure, ResultRecord, read_result
from darkq.status import read_status

PAGE_EVENTS = 256

_Entry: TypeAlias = tuple[bytes, dict[bytes, bytes]]


async def last_cursor(redis: Redis, keys: JobKeys) -> Cursor:
    """Return the place of the log's last event, or `START` when there is no log."""
    last = await redis.xrevrange(keys.events, count=1)
    return Cursor.parse(last[0][0]) if last else START


async def latest_attempt(redis: Redis, keys: JobKeys) -> Cursor:
    """Return the place of the event before the latest attempt, or `START`.

    Between two attempts it is the place before the `retrying` event, which says why and how long
    the job waits. An attempt whose worker was lost has no such event: then it is the log's end.
    Always the place of an event that the log holds: a reader is refused any other.
    """
    last = await redis.xrevrange(keys.events, count=1)
    if not last:
        return START
    event = ev.decode(last[0][1][b"e"])
    if isinstance(event, ev.Started | ev.Chunk):
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

    An attempt's events are numbered without a hole; one in the log itself is data lost by
    Redis, and raises `CursorGone`. So does another run of the attempt, see `_read`.
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
    """Read a span of the log, and in the same step the event that began the reader's attempt.

    A Redis that forgot an attempt gives its number to another run, which begins with another
    event than `started`: then raises `CursorGone`. Two calls would not do, since after a failover
    the second is answered by another server.
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
    """Return the event that began the attempt being read; None while the log has none."""
    at = str(Cursor(cursor.attempt, 0))
    entries = await redis.xrange(keys.events, at, at)
    return _decode(entries[0]) if entries else None


async def at_rest(
    redis: Redis, keys: JobKeys, cursor: Cursor, *, started: AnyEvent | None, is_new: bool
) -> list[AnyEvent] | None:
    """Say what remains when the log holds nothing after the cursor; None: wait for more.

    The cursor may stand on the terminal event, and then nothing remains. The log may have
    expired while the result has not, and then the result stands in for it. A cursor beyond the
    log of a running job is of no use to a new reader. One that was reading stays: Redis has
    forgotten what it had told, and the worker writes it again. Another run of the attempt than the
    one that `started` began raises `CursorGone`.
    """
    span = ("XREVRANGE", keys.events, "+", "-", "COUNT", 1)
    last = await _read(redis, keys, cursor, started, span)
    if last:
        (event,) = last
        has_ended = isinstance(event, TERMINAL)
        if cursor > event.cursor and (has_ended or is_new):
            raise CursorGone(keys.public_id, str(cursor))
        return [] if cursor == event.cursor and has_ended else None
    result, is_waiting = await _read_rest(redis, keys)
    if result is not None:
        if cursor != START:
            raise CursorGone(keys.public_id, str(cursor))
        return _from_result(read_result(result, keys))
    if not is_waiting:
        raise JobNotFound(keys.public_id)
    return None


async def _read_rest(redis: Redis, keys: JobKeys) -> tuple[bytes | None, bool]:
    """Return the result, and whether the job waits or runs, at one moment.

    Asked one after the other, a job that ends or is run again in between would be neither.
    """
    async with redis.pipeline(transaction=True) as pipe:
        pipe.get(keys.result)
        pipe.exists(keys.job)
        for priority in PRIORITIES:
            pipe.zscore(queue(keys.partition, priority), keys.arq_id)
        result, has_record, *scores = await pipe.execute()
    return result, bool(has_record) or any(score is not None for score in scores)


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
