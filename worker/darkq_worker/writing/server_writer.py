"""What is written to one server: one flush at a time.

After a lost connection nobody knows what Redis took, and a Redis that restarted, or another that
took its place, may have forgotten what was acknowledged, or have another run's events in its place.
So nothing is sent over a new connection until every log has been asked where it stands, which run
it holds and whose its job is; then the writer goes on from there.

The task only connects. Flushes and their replies are plain calls from the event loop: to wake a
task for each costs more than all else that is done for a chunk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from darkq.redis.backoff import backoff_s
from darkq.redis.durability import rule_of
from darkq.redis.raw import RawConnection
from darkq.redis.servers import Servers
from darkq.redis.url import Address
from darkq.settings.settings import Settings
from darkq.telemetry.logging import LogEvent
from darkq_worker.outage_log import kind_of
from darkq_worker.writing.attempt_log import AttemptLog
from darkq_worker.writing.flush import Flush, ask_standings, go_on, load_scripts
from darkq_worker.writing.settlement import Settlement

logger = logging.getLogger("darkq.worker.writer")

MakeLine: TypeAlias = Callable[[AbstractConnection, Callable[[Any], None]], RawConnection]

_BACKOFF_FIRST_S = 0.02
_BACKOFF_MAX_S = 1.0


class _Adopting(ConnectionError):
    """A log has come that is to be asked where it stands."""


class ServerWriter:
    """Flushes logs to one server, and settles their jobs there. `run()` is its one task.

    When its connection is lost it asks who has what, and calls `on_loss`, which may take logs away.
    """

    def __init__(
        self,
        servers: Servers,
        owner: Address,
        settings: Settings,
        *,
        make_line: MakeLine,
        on_loss: Callable[[ServerWriter], None],
        on_settled: Callable[[Settlement, bool], None],
    ) -> None:
        self._servers = servers
        self._owner = owner
        self._make_line = make_line
        self._on_loss = on_loss
        self._on_settled = on_settled
        self._wait = rule_of(settings)
        self._linger_s = settings.worker_linger_s
        self._timeout_s = settings.redis_timeout_s
        self._loop = asyncio.get_running_loop()
        self._line: RawConnection | None = None
        self._flush: Flush | None = None
        self._next_flush: asyncio.Handle | None = None
        self._failures = 0
        self._open: set[AttemptLog] = set()
        self._dirty: dict[AttemptLog, None] = {}
        self._settlements: list[Settlement] = []
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    def add(self, log: AttemptLog) -> None:
        """Write a log that nobody has written."""
        self._open.add(log)

    def adopt(self, log: AttemptLog, settlement: Settlement | None) -> None:
        """Go on with a log that another server had, and with its end, if it has come."""
        log.move(self.on_work)
        self._open.add(log)
        if settlement is not None:
            self.settle(settlement)
        elif log.has_work:
            self.on_work(log)
        if self._line is not None:
            self._line.fail(_Adopting())

    def remove(self, log: AttemptLog) -> Settlement | None:
        """Write nothing further of a log; return its end, if that has come and is unsent."""
        self._open.discard(log)
        self._dirty.pop(log, None)
        found = next((each for each in self._settlements if each.log is log), None)
        if found is not None:
            self._settlements.remove(found)
            self._note_drained()
        return found

    def settle(self, settlement: Settlement) -> None:
        """End an attempt, after all its text."""
        self._dirty.pop(settlement.log, None)
        self._settlements.append(settlement)
        self._drained.clear()
        self._flush_after(0)

    @property
    def is_drained(self) -> bool:
        """Tell whether every settlement has reached Redis."""
        return self._drained.is_set()

    async def drained(self) -> None:
        """Wait until every settlement has reached Redis."""
        await self._drained.wait()

    def on_work(self, log: AttemptLog) -> None:
        """Take note that a log has something to flush."""
        self._dirty[log] = None
        if self._next_flush is None:
            self._flush_after(self._linger_s)

    async def run(self) -> None:
        """Hold a connection for as long as there is work for it, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._converse()
            except _Adopting:
                self._work.set()
            except Exception as error:  # all jobs of the worker go through this one task
                with suppress(RedisError, OSError):
                    await self._servers.look_again()
                self._on_loss(self)
                if self._dirty or self._settlements:
                    self._work.set()
                    await self._pause(error)

    async def _converse(self) -> None:
        """Connect, and flush what comes until the connection is lost. Raises its loss."""
        connection = await self._servers.connect(self._owner)
        try:
            await self._resume(connection)
            self._line = self._make_line(connection, self._on_reply)
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

    async def _loss(self, line: RawConnection) -> Exception:
        """Return why a line is lost; give it up when a flush has no reply in time."""
        while not line.lost.done():
            before = self._flush
            await asyncio.wait([line.lost], timeout=self._timeout_s)
            if before is not None and self._flush is before:
                line.fail(TimeoutError("no reply to a flush"))
        return line.lost.result()

    async def _pause(self, error: Exception) -> None:
        if self._failures == 0:
            line = LogEvent("flush failed, will try until Redis is back", error=kind_of(error))
            logger.warning(line)
        pause_s = backoff_s(self._failures, first_s=_BACKOFF_FIRST_S, most_s=_BACKOFF_MAX_S)
        self._failures += 1
        await asyncio.sleep(pause_s)

    async def _resume(self, connection: AbstractConnection) -> None:
        """Ask every log where it stands, and go on from there."""
        await load_scripts(connection, in_cluster=self._servers.is_cluster)
        standings = await ask_standings(connection, list(self._open))
        for log, standing in standings.items():
            if log in self._open:  # else it was abandoned in the meantime
                go_on(log, standing)
                if log.has_work:
                    self._dirty[log] = None
                if standing.holds_another_run(log) and (ending := self.remove(log)) is not None:
                    self._on_settled(ending, False)

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
        flush = Flush(
            logs,
            settlements,
            in_cluster=self._servers.is_cluster,
            wait=self._wait,
            on_settled=self._on_settled,
        )
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

    def _note_drained(self) -> None:
        if not self._settlements and self._flush is None:
            self._drained.set()
