"""Group commit: one writer for all attempts of a worker process.

    attempt ── add() ────► AttemptLog ┐
    attempt ── add() ────► AttemptLog ┼── one flush under way per server ──► Redis
    attempt ── settle() ──────────────┘

Everything that waits is sent when the previous flush has returned. Idle: one chunk, one round trip,
no added delay. Busy: a flush carries more, and the waiting chunks of a job become one event. A
`Budget` bounds the buffer: reading an upstream pauses when it is full, and nothing is dropped.
`DARKQ_WORKER_LINGER_S` delays flushes, so that more text shares them.

A log is written to the server that has its partition. If the partition moves to another server,
the log moves there, with everything unsent.

After a lost connection it is unknown which writes Redis has. A Redis that restarted or failed over
may have lost acknowledged events, or have the events of another run. So a new connection first
reads the state of each log (`resuming`), and writing continues from there.

The task of a `ServerWriter` only connects. Flushes and replies are plain calls of the event loop:
waking a task per flush costs more than everything else that is done for a chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from darkq.protocol.keys import JobKeys
from darkq.redis.backoff import backoff_s
from darkq.redis.durability import rule_of
from darkq.redis.raw import RawConnection
from darkq.redis.servers import Servers
from darkq.redis.url import Address
from darkq.settings.settings import Settings
from darkq.telemetry.metrics import Tally
from darkq_worker.outage_log import OutageLog
from darkq_worker.writing.attempt_log import AttemptLog, Budget, Flush, Settlement
from darkq_worker.writing.resuming import load_scripts, read_log_states, resume_log

OpenRaw: TypeAlias = Callable[[AbstractConnection, Callable[[Any], None]], RawConnection]

_BACKOFF_FIRST_S = 0.02
_BACKOFF_MAX_S = 1.0


class Writer:
    """Flushes the logs of a worker and settles its attempts. `run()` is its one task."""

    def __init__(self, servers: Servers, settings: Settings) -> None:
        self.budget = Budget(settings.worker_buffer_chars)
        self.tally = Tally()
        self._servers = servers
        self._settings = settings
        self._writers: dict[Address, ServerWriter] = {}
        self._homes: dict[AttemptLog, ServerWriter] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def open(
        self, keys: JobKeys, attempt: int, token: str, *, on_lost: Callable[[], object]
    ) -> AttemptLog:
        """Open the log of an attempt; `token` is its lease's. `settle` or `abandon` closes it."""
        writer = self._find_writer(keys)
        log = AttemptLog(
            keys,
            attempt,
            token,
            self.budget,
            self.tally,
            on_work=writer.on_work,
            on_lost=on_lost,
            max_event_chars=self._settings.worker_max_event_chars,
        )
        self._homes[log] = writer
        writer.add(log)
        return log

    def abandon(self, log: AttemptLog) -> None:
        """Write nothing more of an attempt."""
        log.drop()
        if (writer := self._homes.pop(log, None)) is not None:
            writer.remove(log)

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        """Settle an attempt, after all its text.

        The future becomes True if the job was still ours. It never fails; while Redis is
        unavailable it waits.
        """
        log = settlement.log
        # A log that was lost has no writer any more, and may still be settled: Redis refuses it.
        writer = self._homes.get(log) or self._find_writer(log.keys)
        writer.settle(settlement)
        return settlement.settled

    async def wait_drained(self) -> None:
        """Wait until every settlement has reached Redis."""
        while waiting := [writer for writer in self._writers.values() if not writer.is_drained]:
            await waiting[0].wait_drained()

    async def run(self) -> None:
        """Hold connections while there is work for them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for writer in self._writers.values():
                self._start(writer)
            await asyncio.Event().wait()

    def _find_writer(self, keys: JobKeys) -> ServerWriter:
        owner = self._servers.owner(keys.events)
        writer = self._writers.get(owner)
        if writer is None:
            writer = self._writers[owner] = ServerWriter(
                self._servers,
                owner,
                self._settings,
                open_raw=self._open_raw,
                on_loss=self._move_logs,
                on_settled=self._on_settled,
            )
            self._start(writer)
        return writer

    def _start(self, writer: ServerWriter) -> None:
        if self._tasks is not None:
            self._tasks.create_task(writer.run(), name="darkq-server-writer")

    def _open_raw(
        self, connection: AbstractConnection, on_reply: Callable[[Any], None]
    ) -> RawConnection:
        return RawConnection(connection, on_reply)

    def _move_logs(self, writer: ServerWriter) -> None:
        """Move logs whose partition is on another server now to the writer of that server.

        Only logs of the writer that lost its connection: others may have a flush under way.
        """
        for log, home in list(self._homes.items()):
            if home is writer and (new := self._find_writer(log.keys)) is not writer:
                self._homes[log] = new
                new.adopt(log, writer.remove(log))

    def _on_settled(self, settlement: Settlement, ours: bool) -> None:
        if ours:
            # The script also appended the unsent events, so their chunks count as relayed.
            settlement.log.acknowledge(settlement.log.sealed)
        self.abandon(settlement.log)
        settlement.settled.set_result(ours)


class _Adopted(ConnectionError):
    """A log has been adopted: reconnect, to read its state first."""


class ServerWriter:
    """Flushes logs to one server, and settles their attempts there. `run()` is its one task.

    When it loses its connection it looks up the owners of all keys, and calls `on_loss`, which may
    move logs away.
    """

    def __init__(
        self,
        servers: Servers,
        owner: Address,
        settings: Settings,
        *,
        open_raw: OpenRaw,
        on_loss: Callable[[ServerWriter], None],
        on_settled: Callable[[Settlement, bool], None],
    ) -> None:
        self._servers = servers
        self._owner = owner
        self._open_raw = open_raw
        self._on_loss = on_loss
        self._on_settled = on_settled
        self._wait = rule_of(settings)
        self._linger_s = settings.worker_linger_s
        self._timeout_s = settings.redis_timeout_s
        self._loop = asyncio.get_running_loop()
        self._raw: RawConnection | None = None
        self._flush: Flush | None = None
        self._next_flush: asyncio.Handle | None = None
        self._failures = 0
        self._outage = OutageLog("flush failed", "flush recovered")
        self._open: set[AttemptLog] = set()
        self._dirty: dict[AttemptLog, None] = {}  # a set that keeps its order
        self._settlements: list[Settlement] = []
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    def add(self, log: AttemptLog) -> None:
        """Write a new log."""
        self._open.add(log)

    def adopt(self, log: AttemptLog, settlement: Settlement | None) -> None:
        """Continue a log of another server, and its settlement, if there is one."""
        log.set_on_work(self.on_work)
        self._open.add(log)
        if settlement is not None:
            self.settle(settlement)
        elif log.has_work:
            self.on_work(log)
        if self._raw is not None:
            # This connection has not read the state of the log. Only a new one does that.
            self._raw.fail(_Adopted())

    def remove(self, log: AttemptLog) -> Settlement | None:
        """Write nothing more of a log; return its settlement, if it is unsent."""
        self._open.discard(log)
        self._dirty.pop(log, None)
        found = next((each for each in self._settlements if each.log is log), None)
        if found is not None:
            self._settlements.remove(found)
            self._check_drained()
        return found

    def settle(self, settlement: Settlement) -> None:
        """Settle an attempt, after all its text."""
        self._dirty.pop(settlement.log, None)  # the settlement carries its unsent events
        self._settlements.append(settlement)
        self._drained.clear()
        self._schedule_flush(0)

    @property
    def is_drained(self) -> bool:
        """True if every settlement has reached Redis."""
        return self._drained.is_set()

    async def wait_drained(self) -> None:
        """Wait until every settlement has reached Redis."""
        await self._drained.wait()

    def on_work(self, log: AttemptLog) -> None:
        """Note that a log has something to flush."""
        self._dirty[log] = None
        if self._next_flush is None:
            self._schedule_flush(self._linger_s)

    async def run(self) -> None:
        """Hold a connection while there is work for it, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._flush_until_lost()
            except _Adopted:
                self._work.set()
            except Exception as error:  # all jobs of the worker depend on this task
                with suppress(RedisError, OSError):
                    await self._servers.look_again()
                self._on_loss(self)
                # Without work, reconnect only when there is some: the server may be gone.
                if self._dirty or self._settlements:
                    self._work.set()
                    await self._pause(error)

    async def _flush_until_lost(self) -> None:
        """Connect, and flush until the connection is lost. Raises the reason of the loss."""
        connection = await self._servers.connect(self._owner)
        try:
            await self._resume(connection)
            self._raw = self._open_raw(connection, self._on_reply)
            self._send()
            raise await self._wait_for_loss(self._raw)
        finally:
            self._raw = None
            if self._next_flush is not None:
                self._next_flush.cancel()
                self._next_flush = None
            if self._flush is not None:
                # Without a reply it is unknown whether the flush was executed. Both kinds of
                # writes may be repeated: events by their ids, settlements by the owner token.
                unsettled = [s for s in self._flush.settlements if not s.settled.done()]
                self._settlements[:0] = unsettled
                self._dirty |= dict.fromkeys(log for log in self._flush.logs if log.has_work)
                self._flush = None
            await connection.disconnect(nowait=True)

    async def _wait_for_loss(self, raw: RawConnection) -> Exception:
        """Return why the connection is lost; close it if a flush gets no reply in time."""
        while not raw.lost.done():
            # A timer per flush would cost more than the flush. So look once per timeout: a flush
            # that is there twice has had at least that long.
            before = self._flush
            await asyncio.wait([raw.lost], timeout=self._timeout_s)
            if before is not None and self._flush is before:
                raw.fail(TimeoutError("no reply to a flush"))
        return raw.lost.result()

    async def _pause(self, error: Exception) -> None:
        self._outage.record_failure(error)
        pause_s = backoff_s(self._failures, first_s=_BACKOFF_FIRST_S, most_s=_BACKOFF_MAX_S)
        self._failures += 1
        await asyncio.sleep(pause_s)

    async def _resume(self, connection: AbstractConnection) -> None:
        """Read the state of every log, and continue from there."""
        await load_scripts(connection, in_cluster=self._servers.is_cluster)
        states = await read_log_states(connection, list(self._open))
        for log, state in states.items():
            if log in self._open:  # it may have been abandoned during the read
                resume_log(log, state)
                if log.has_work:
                    self._dirty[log] = None
                # The settlement of a lost log would be refused by Redis, except here: the other
                # run has the same attempt number, and maybe the same token.
                if state.is_of_another_run(log) and (settlement := self.remove(log)) is not None:
                    self._on_settled(settlement, False)

    def _schedule_flush(self, delay_s: float) -> None:
        if self._raw is None:
            self._work.set()
        elif self._flush is None:
            if self._next_flush is not None:
                self._next_flush.cancel()
            # Soon, not now: whatever this iteration of the event loop still adds shares the flush.
            self._next_flush = (
                self._loop.call_later(delay_s, self._send)
                if delay_s
                else self._loop.call_soon(self._send)
            )

    def _send(self) -> None:
        """Send everything that waits, unless a flush is under way."""
        self._next_flush = None
        if self._raw is None or self._flush is not None:
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
            self._raw.send(*commands)

    def _on_reply(self, reply: Any) -> None:
        raw, flush = self._raw, self._flush
        if raw is None or flush is None or not flush.receive(reply):
            return
        if flush.error is not None:
            # Only some of its commands were executed. A new connection finds out which.
            raw.fail(flush.error)
            return
        self._flush = None
        if self._failures:
            self._failures = 0
            self._outage.record_success()
        for log in flush.logs:
            if log.has_work:  # text arrived meanwhile, or more than one event may hold
                self._dirty[log] = None
        if self._settlements:
            self._schedule_flush(0)
        else:
            self._drained.set()
            if self._dirty:
                self._schedule_flush(self._linger_s)

    def _check_drained(self) -> None:
        if not self._settlements and self._flush is None:
            self._drained.set()
