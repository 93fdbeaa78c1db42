"""Deliver a job's events to all its readers in this process, decoded and encoded once.

    channel ── mailbox ── one turn of the loop ── one share ── a write to each live reader
                                  ▲                                  ▲        │ cannot write
    event log ── gap, silence ────┘                            joins │        ▼
    event log ── pages ───────────────────────────────────── reader that catches up

A reader first reads the log by itself, as fast as its socket allows. When its cursor is one that
the fan-out still has, it joins: from then on it has no task, timer or lock of its own. Its new
events are written in the turn of the loop in which they arrive, with the same bytes as for all
readers at its position. A reader whose socket is full leaves, and catches up from the log.

The first reader that comes to the end of the log sets the position of the fan-out. From there the
fan-out follows the channel by the rules of `tail`: duplicates are dropped, and after a gap it reads
the log. It keeps events only while a reader catches up, and at most `MAX_EVENTS` of them. Events
that arrive during the last read of that reader are among them, so there is no gap and no duplicate
where it joins. If there were more, it reads the log again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
from redis.asyncio import Redis

from darkq import event as ev
from darkq.event import START, AnyEvent, Cursor
from darkq.jobs import tail
from darkq.jobs.mailbox import Mailbox
from darkq.jobs.tail import LogReader, read_started
from darkq.jobs.tail_span import TailSpan
from darkq.protocol.keys import JobKeys
from darkq.redis.pool import speaking_darkq
from darkq.redis.pubsub import Live
from darkq.sse import frame

MAX_EVENTS = 512
MAX_BYTES = 256 << 10
ROUND = 64
"""So many readers are written to in one turn of the loop; other tasks run in between."""


class Share:
    """Consecutive events as Server-Sent Events: the same bytes for all readers at one position.

    `chunked` is `plain` as a chunk of HTTP/1.1.
    """

    __slots__ = ("chunked", "events", "plain")

    def __init__(self, events: Sequence[AnyEvent], frames: Sequence[bytes]) -> None:
        self.events = list(events)
        self.plain = b"".join(frames)
        self.chunked = encode_chunk(self.plain)


class FanoutReader(Protocol):
    """The connection of a reader. It is live from `enter_live` to `leave_live`."""

    async def begin(self) -> None:
        """Begin the response."""

    async def send(self, frames: bytes) -> None:
        """Send bytes, and wait until they are accepted."""

    def enter_live(self) -> None:
        """Prepare for `deliver` and `ping`."""

    def deliver(self, share: Share) -> bool:
        """Write a share; False if there is no room for another. Must not raise."""
        ...

    def ping(self) -> bool:
        """Write a comment, with the result of `deliver`. Must not raise."""
        ...

    async def leave_live(self) -> None:
        """Wait until all delivered bytes are accepted."""


class Fanouts:
    """The fan-outs of a process, one for each job that has readers."""

    def __init__(
        self,
        redis: Redis,
        live: Live,
        *,
        ping_after_s: float,
        on_relayed: Callable[[float, int], None],
    ) -> None:
        """Make an empty collection.

        `on_relayed` is called after live events were written, with the seconds since their arrival
        and the number of readers.
        """
        self._redis = redis
        self._live = live
        self._ping_after_s = ping_after_s
        self._on_relayed = on_relayed
        self._fanouts: dict[JobKeys, Fanout] = {}

    async def follow(
        self, job_id: str, after: str | None, reader: FanoutReader, *, compact: bool = False
    ) -> None:
        """Give a reader a job's events after a cursor, each once and in order, to the terminal one.

        With `compact`, pieces from the log are merged. Raises the errors of `JobHandle.events` and
        those of the reader. May be cancelled.
        """
        keys, cursor = JobKeys.parse(job_id), Cursor.parse(after) if after else START
        await self._live.know_servers()
        if (fanout := self._fanouts.get(keys)) is None:
            fanout = self._fanouts[keys] = Fanout(
                self._live, keys, self._ping_after_s, self._on_relayed
            )
        fanout.readers += 1
        try:
            await fanout.confirm()
            with TailSpan(keys) as span:
                await span.begin(cursor, partial(read_started, self._redis, keys))
                log = LogReader(self._redis, keys, cursor, compact=compact)
                while (member := await fanout.catch_up(log, reader, span)) is not None:
                    del log
                    try:
                        await member.left
                    finally:
                        fanout.remove(member)
                    if member.has_ended:
                        return
                    await reader.leave_live()
                    fanout.count_overflow(member)
                    log = LogReader(self._redis, keys, START).at(*member.position)
        finally:
            fanout.readers -= 1
            if not fanout.readers:
                fanout.close()
                self._fanouts.pop(keys, None)


class _Position(NamedTuple):
    cursor: Cursor
    started: ev.Started | None


class _Member:
    """A live reader, and its position: the number of events published before it."""

    __slots__ = ("has_ended", "left", "number", "position", "reader", "span")

    def __init__(
        self, reader: FanoutReader, number: int, position: _Position, span: TailSpan | None
    ) -> None:
        self.reader = reader
        self.number = number
        self.position = position
        self.span = span
        self.has_ended = False
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        if not self.left.done():
            self.left.set_result(None)


class Fanout:
    """The readers of one job. `Fanouts` makes it, and closes it with its last reader."""

    __slots__ = (
        *("_came_s", "_catching_up", "_channel", "_events", "_frames", "_has_ended", "_has_news"),
        *("_heard_s", "_is_new", "_is_scheduled", "_kept_after", "_kept_bytes", "_kept_from"),
        *("_live", "_log", "_log_reading", "_loop", "_mailbox", "_members", "_on_relayed"),
        *("_ping_after_s", "_round", "_shares", "_subscription", "_timer", "_written_s"),
        "readers",
    )

    def __init__(
        self,
        live: Live,
        keys: JobKeys,
        ping_after_s: float,
        on_relayed: Callable[[float, int], None],
    ) -> None:
        self.readers = 0
        self._live = live
        self._ping_after_s = ping_after_s
        self._on_relayed = on_relayed
        self._loop = asyncio.get_running_loop()
        self._is_scheduled = False
        self._mailbox = Mailbox(on_overflow=live.overflowed, on_news=self._schedule)
        self._is_new = True
        self._log: LogReader | None = None
        self._has_ended = False
        self._log_reading: asyncio.Task[None] | None = None
        self._members: dict[_Member, None] = {}
        self._catching_up = 0
        # Published events. `_kept_after` is the cursor before them, `_kept_from` their number.
        self._kept_after = START
        self._kept_from = 0
        self._events: list[AnyEvent] = []
        self._frames: list[bytes] = []
        self._kept_bytes = 0
        self._shares: dict[int, Share] = {}
        self._round: list[_Member] = []
        self._has_news = False
        self._came_s: float | None = None
        self._written_s = self._heard_s = self._loop.time()
        self._subscription = live.listening(keys.live, self._mailbox)
        self._channel = self._subscription.__enter__()
        self._timer = self._loop.call_later(min(ping_after_s, tail.SILENCE_S), self._tick)

    async def confirm(self) -> None:
        """Wait for the subscription. Call it before `catch_up`. Raises `RedisUnavailable`."""
        async with speaking_darkq():
            await self._live.confirm(self._channel)
        if self._is_new:  # before the first read of the log; messages that arrive later must stay
            self._is_new = False
            self._mailbox.forget()

    def close(self) -> None:
        """End the subscription."""
        self._log = None
        self._timer.cancel()
        self._subscription.__exit__(None, None, None)
        if self._log_reading is not None:
            self._log_reading.cancel()

    def remove(self, member: _Member) -> None:
        """Write no more to a reader that was live."""
        self._members.pop(member, None)

    def count_overflow(self, member: _Member) -> None:
        """Count a reader that was too slow, if it has missed events."""
        if member.number < self._end:
            self._live.overflowed()

    async def catch_up(
        self, log: LogReader, reader: FanoutReader, span: TailSpan
    ) -> _Member | None:
        """Read the log until the reader can join; None if it has had the terminal event."""
        self._catching_up += 1
        try:
            at_end = False
            while not log.ended:
                if at_end or self._find(log) is not None:
                    await reader.begin()
                    if (member := self._join(log, reader, span, sets_position=at_end)) is not None:
                        return member
                    if at_end:
                        await self._read_log()
                async with speaking_darkq():
                    page = await log.next_page()
                at_end = not page
                if page:
                    span.record(page)
                    await reader.send(b"".join(map(encode_event, page)))
            return None
        finally:
            self._catching_up -= 1
            self._drop_unneeded()

    @property
    def _end(self) -> int:
        """The number of all published events."""
        return self._kept_from + len(self._events)

    def _find(self, log: LogReader) -> int | None:
        """Return the number of events up to a reader's cursor; None if it is not kept."""
        if self._log is None:
            return None
        mine, its = self._log.started, log.started
        if mine is not None and its is not None and mine.id == its.id and mine != its:
            return None  # another run of the attempt: reading the log decides
        if log.cursor == self._log.cursor:
            # After the end, the log decides: a failed job may have been retried.
            return None if self._has_ended else self._end
        if log.cursor == self._kept_after:
            return self._kept_from
        last_id = str(log.cursor)
        for index in range(len(self._events) - 1, -1, -1):
            if self._events[index].id == last_id:
                return self._kept_from + index + 1
        return None

    def _join(
        self, log: LogReader, reader: FanoutReader, span: TailSpan, *, sets_position: bool
    ) -> _Member | None:
        """Make a reader live, if its cursor is kept or is to be the position of the fan-out."""
        if sets_position and (self._log is None or self._has_ended):
            self._drop(len(self._events))
            self._log = log.at(log.cursor, log.started)
            self._has_ended = False
            self._kept_after = log.cursor
            self._kept_bytes = 0
        number = self._find(log)
        if number is None or self._log is None:
            return None
        its = log.started
        if self._log.started is None and its and its.attempt == self._log.cursor.attempt:
            self._log.started = its
        position = _Position(log.cursor, its)
        member = _Member(reader, number, position, span if span.is_recorded else None)
        self._members[member] = None
        reader.enter_live()
        self._has_news = self._has_news or number < self._end
        self._schedule()
        return member

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._log is not None and self._log_reading is None and not self._has_ended:
            self._take_news(self._log)
        self._is_scheduled = False
        if self._log is not None and (self._round or self._has_news):
            self._write(self._log)

    def _take_news(self, log: LogReader) -> None:
        """Publish the messages of the channel, or read the log if some are missing."""
        if self._mailbox.has_gap:
            self._start_reading()
            return
        messages = self._mailbox.take_now()
        if messages is None:
            return
        self._heard_s = self._loop.time()
        try:
            events, is_whole = log.follow(messages)
        except (msgspec.MsgspecError, ValueError):
            events, is_whole = [], False
        if events:
            self._came_s = self._came_s or self._mailbox.came_s
            self._publish(events)
        if not (is_whole or self._has_ended):
            self._start_reading()

    def _publish(self, events: Sequence[AnyEvent]) -> None:
        frames = [encode_event(event) for event in events]
        self._events += events
        self._frames += frames
        self._kept_bytes += sum(map(len, frames))
        surplus = 0  # the oldest of them, which are too many
        while self._kept_bytes > MAX_BYTES or len(self._events) - surplus > MAX_EVENTS:
            self._kept_bytes -= len(self._frames[surplus])
            surplus += 1
        self._drop(surplus)
        self._shares.clear()
        self._has_news = True
        assert self._log is not None  # noqa: S101  it has read the events
        self._has_ended = self._log.ended
        self._schedule()

    def _drop(self, count: int) -> None:
        """Drop the oldest kept events."""
        if count:
            self._kept_after = self._events[count - 1].cursor
            self._kept_from += count
            del self._events[:count], self._frames[:count]

    def _drop_unneeded(self) -> None:
        if self._events and not (self._catching_up or self._has_news or self._round):
            self._kept_from += len(self._events)
            if self._log is not None:
                self._kept_after = self._log.cursor
            self._events.clear()
            self._frames.clear()
            self._kept_bytes = 0
            self._shares.clear()

    def _write(self, log: LogReader) -> None:
        """Write to some readers that have not had all events; to the others in the next turns."""
        if not self._round:
            self._has_news = False
            self._round = list(self._members)
        position, written = _Position(log.cursor, log.started), 0
        for member in self._round[:ROUND]:
            written += self._deliver(member, position)
        del self._round[:ROUND]
        if written:
            self._written_s = self._loop.time()
            if self._came_s is not None:
                self._on_relayed(time.perf_counter() - self._came_s, written)
        if self._round or self._has_news:
            self._schedule()
        else:
            self._came_s = None
            self._drop_unneeded()

    def _deliver(self, member: _Member, position: _Position) -> bool:
        """Write the events that a reader has not had; return whether there were any."""
        number = member.number
        end = self._kept_from + len(self._events)
        if number == end or member.left.done():
            return False
        if number < self._kept_from:  # too late: they were dropped
            member.leave()
            return False
        share = self._shares.get(number)
        if share is None:
            first = number - self._kept_from
            share = self._shares[number] = Share(self._events[first:], self._frames[first:])
        has_room = member.reader.deliver(share)
        if member.span is not None:
            member.span.record(share.events)
        member.number, member.position = end, position
        member.has_ended = self._has_ended
        if member.has_ended or not has_room:
            member.leave()
        return True

    def _start_reading(self) -> asyncio.Task[None]:
        if self._log_reading is None:
            self._log_reading = asyncio.create_task(self._publish_log(), name="darkq-fanout")
        return self._log_reading

    async def _read_log(self) -> None:
        """Read the log after the position of the fan-out, and publish the events."""
        await asyncio.wait([self._start_reading()])

    async def _publish_log(self) -> None:
        try:
            # Before the read: a message that arrives during the read must stay.
            self._mailbox.forget()
            self._heard_s = self._loop.time()
            while self._log is not None and (page := await self._log.next_page()):
                self._publish(page)
        except Exception:
            # Without a position. Each reader reads the log, and gets the error from there.
            self._log = None
            self._mailbox.gap()
            self._round.clear()
            for member in self._members:
                member.leave()
        finally:
            self._log_reading = None
            self._schedule()

    def _tick(self) -> None:
        """Ping silent readers, and read the log in case the channel has failed."""
        now_s = self._loop.time()
        if now_s >= self._heard_s + tail.SILENCE_S:
            self._heard_s = now_s
            if self._log is not None and not self._has_ended:
                self._start_reading()
        if now_s >= self._written_s + self._ping_after_s:
            self._written_s = now_s
            for member in self._members:
                if not (member.left.done() or member.reader.ping()):
                    member.leave()
        due_s = min(self._written_s + self._ping_after_s, self._heard_s + tail.SILENCE_S)
        self._timer = self._loop.call_at(due_s, self._tick)


def encode_event(event: AnyEvent) -> bytes:
    """Return an event as a Server-Sent Event whose id is its cursor."""
    return frame(ev.encode(event), id=event.id)


def encode_chunk(data: bytes) -> bytes:
    """Return bytes as a chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)
