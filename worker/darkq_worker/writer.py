"""Group commit: one writer for all jobs of a worker process.

    attempt ── add() ────► AttemptLog ┐
    attempt ── add() ────► AttemptLog ┼── one flush under way ──► Redis
    attempt ── settle() ──────────────┘

Whatever waits goes out as soon as the previous flush has returned. Idle: one chunk, one round
trip, no added delay. Busy: a flush carries more by itself, and a job's waiting chunks go as
one event. The buffer is bounded by a `Budget`: whoever reads an upstream waits for room, and
nothing is dropped. `DARKQ_WORKER_LINGER_S` lets text wait for more to go with it.

After a lost connection nobody knows what Redis took, and a Redis that restarted may have
forgotten what it had acknowledged. So nothing is sent over a new connection until every log
has been asked where it stands; then the writer goes on from there.

The task only connects. Flushes and their replies are plain calls from the event loop: to wake a
task for each costs more than all else that is done for a chunk.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError, TimeoutError

from darkq import scripts
from darkq.connection import brief, pool
from darkq.event import Cursor
from darkq.keys import JobKeys
from darkq.line import Command, Line, connect
from darkq.measures import Tally
from darkq.settings import Settings
from darkq_worker.attempt_log import AttemptLog
from darkq_worker.budget import Budget
from darkq_worker.flush import Flush, is_hopeless
from darkq_worker.settlement import Settlement

logger = logging.getLogger("darkq.worker.writer")

_BACKOFF_MAX_S = 1.0


class Writer:
    """Flushes the logs and settles the jobs of a worker. `run()` is its one task."""

    def __init__(self, settings: Settings) -> None:
        self.budget = Budget(settings.worker_buffer_chars)
        self.tally = Tally()
        self._max_event_chars = settings.worker_max_event_chars
        self._linger_s = settings.worker_linger_s
        self._timeout_s = settings.redis_timeout_s
        self._pool = pool(settings)
        self._loop = asyncio.get_running_loop()
        self._line: Line | None = None
        self._flush: Flush | None = None
        self._next_flush: asyncio.Handle | None = None
        self._failures = 0
        self._open: set[AttemptLog] = set()
        self._dirty: dict[AttemptLog, None] = {}
        self._settlements: list[Settlement] = []
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    def open(self, keys: JobKeys, attempt: int, *, on_lost: Callable[[], object]) -> AttemptLog:
        """Begin the log of an attempt. `settle` or `abandon` ends it."""
        log = AttemptLog(
            keys,
            attempt,
            self.budget,
            self.tally,
            on_work=self._on_work,
            on_lost=on_lost,
            max_event_chars=self._max_event_chars,
        )
        self._open.add(log)
        return log

    def abandon(self, log: AttemptLog) -> None:
        """Write nothing further of an attempt."""
        log.forget()
        self._open.discard(log)
        self._dirty.pop(log, None)

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        """End an attempt, after all its text.

        The future tells whether the job was still ours. It never fails; it waits for as long
        as Redis is away.
        """
        self._dirty.pop(settlement.log, None)
        self._settlements.append(settlement)
        self._drained.clear()
        self._flush_after(0)
        return settlement.settled

    async def drained(self) -> None:
        """Wait until every settlement has reached Redis."""
        await self._drained.wait()

    async def run(self) -> None:
        """Hold a connection for as long as there is work for it, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._converse()
            except (RedisError, OSError) as error:
                if self._dirty or self._settlements:
                    self._work.set()
                    await self._pause(error)

    async def _converse(self) -> None:
        """Connect, and flush what comes until the connection is lost. Raises its loss."""
        connection = await connect(self._pool)
        try:
            await self._resume(connection)
            self._line = self._take_over(connection)
            self._send()
            raise await self._loss(self._line)
        finally:
            self._line = None
            if self._next_flush is not None:
                self._next_flush.cancel()
                self._next_flush = None
            if self._flush is not None:
                unsettled = [s for s in self._flush.settlements if not s.settled.done()]
                self._settlements[:0] = unsettled
                self._dirty |= dict.fromkeys(log for log in self._flush.logs if log.has_work)
                self._flush = None
            await connection.disconnect(nowait=True)

    def _take_over(self, connection: AbstractConnection) -> Line:
        return Line(connection, self._on_reply)

    async def _loss(self, line: Line) -> Exception:
        """Return why a line is lost; give it up when a flush has no reply in time."""
        while not line.lost.done():
            before = self._flush
            await asyncio.wait([line.lost], timeout=self._timeout_s)
            if before is not None and self._flush is before:
                line.fail(TimeoutError("no reply to a flush"))
        return line.lost.result()

    async def _pause(self, error: Exception) -> None:
        if self._failures == 0:
            logger.warning("flush failed, will try until Redis is back: %s", brief(error))
        self._failures += 1
        await asyncio.sleep(random.uniform(0, min(_BACKOFF_MAX_S, 0.02 * 2**self._failures)))

    async def _resume(self, connection: AbstractConnection) -> None:
        """Ask every log where it stands, and go on from there."""
        logs = list(self._open)
        commands: list[Command] = [("SCRIPT", "LOAD", script.source) for script in scripts.ALL]
        commands += [("XREVRANGE", log.keys.events, "+", "-", "COUNT", 1) for log in logs]
        await connection.send_packed_command(connection.pack_commands(commands))
        for _ in scripts.ALL:
            await connection.read_response()
        for log in logs:
            try:
                last = await connection.read_response()
                log.resume(Cursor.parse(last[0][0]) if last else None)
            except (ResponseError, ValueError) as error:  # what stands there is no log of ours
                if isinstance(error, ResponseError) and not is_hopeless(error):
                    raise
                log.lose()
            if log.has_work:
                self._dirty[log] = None

    def _on_work(self, log: AttemptLog) -> None:
        self._dirty[log] = None
        if self._next_flush is None:
            self._flush_after(self._linger_s)

    def _flush_after(self, delay_s: float) -> None:
        if self._line is None:
            self._work.set()
        elif self._flush is None:
            if self._next_flush is not None:
                self._next_flush.cancel()
            # Soon, not now: what this round of the event loop still brings goes with it.
            later = self._loop.call_later
            self._next_flush = (
                later(delay_s, self._send) if delay_s else self._loop.call_soon(self._send)
            )

    def _send(self) -> None:
        """Send what waits, unless something is under way."""
        self._next_flush = None
        if self._line is None or self._flush is not None:
            return
        logs, self._dirty = self._dirty, {}
        settlements, self._settlements = self._settlements, []
        flush = Flush(logs, settlements, on_settled=self._settled)
        if commands := flush.commands:
            self._flush = flush
            self._line.send(*commands)

    def _on_reply(self, reply: Any) -> None:
        line, flush = self._line, self._flush
        if line is None or flush is None or not flush.take_in(reply):
            return
        if flush.error is not None:
            line.fail(flush.error)
            return
        self._flush = None
        self._failures = 0
        for log in flush.logs:
            if log.has_work:  # more waited than one event may hold
                self._dirty[log] = None
        if self._settlements:
            self._flush_after(0)
        else:
            self._drained.set()
            if self._dirty:
                self._flush_after(self._linger_s)

    def _settled(self, settlement: Settlement, ours: bool) -> None:
        if ours:
            settlement.log.acknowledge(settlement.log.sealed)
        self.abandon(settlement.log)
        settlement.settled.set_result(ours)
