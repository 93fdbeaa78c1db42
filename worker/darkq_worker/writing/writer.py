"""Group commit: one writer for all jobs of a worker process.

    attempt ── add() ────► AttemptLog ┐
    attempt ── add() ────► AttemptLog ┼── one flush under way per server ──► Redis
    attempt ── settle() ──────────────┘

Whatever waits goes out as soon as the previous flush has returned. Idle: one chunk, one round
trip, no added delay. Busy: a flush carries more by itself, and a job's waiting chunks go as
one event. The buffer is bounded by a `Budget`: whoever reads an upstream waits for room, and
nothing is dropped. `DARKQ_WORKER_LINGER_S` lets text wait for more to go with it.

A log is written to the server that has its partition. When that loses its connection, and the
partition is found elsewhere, its log goes there, with all that is unsent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection

from darkq.protocol.keys import JobKeys
from darkq.redis.raw import RawConnection
from darkq.redis.servers import Servers
from darkq.redis.url import Address
from darkq.settings.settings import Settings
from darkq.telemetry.metrics import Tally
from darkq_worker.writing.attempt_log import AttemptLog, Budget
from darkq_worker.writing.server_writer import ServerWriter
from darkq_worker.writing.settlement import Settlement


class Writer:
    """Flushes the logs and settles the jobs of a worker. `run()` is its one task."""

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
        """Begin the log of an attempt; `token` is its lease's. `settle` or `abandon` ends it."""
        writer = self._writer_of(keys)
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
        """Write nothing further of an attempt."""
        log.forget()
        if (writer := self._homes.pop(log, None)) is not None:
            writer.remove(log)

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        """End an attempt, after all its text.

        The future tells whether the job was still ours. It never fails; it waits for as long
        as Redis is away.
        """
        log = settlement.log
        writer = self._homes.get(log) or self._writer_of(log.keys)  # one that is lost may end too
        writer.settle(settlement)
        return settlement.settled

    async def drained(self) -> None:
        """Wait until every settlement has reached Redis."""
        while waiting := [writer for writer in self._writers.values() if not writer.is_drained]:
            await waiting[0].drained()

    async def run(self) -> None:
        """Hold connections for as long as there is work for them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for writer in self._writers.values():
                self._start(writer)
            await asyncio.Event().wait()

    def _writer_of(self, keys: JobKeys) -> ServerWriter:
        owner = self._servers.owner(keys.events)
        writer = self._writers.get(owner)
        if writer is None:
            writer = self._writers[owner] = ServerWriter(
                self._servers,
                owner,
                self._settings,
                make_line=self._make_line,
                on_loss=self._sort,
                on_settled=self._settled,
            )
            self._start(writer)
        return writer

    def _start(self, writer: ServerWriter) -> None:
        if self._tasks is not None:
            self._tasks.create_task(writer.run(), name="darkq-server-writer")

    def _make_line(
        self, connection: AbstractConnection, on_reply: Callable[[Any], None]
    ) -> RawConnection:
        return RawConnection(connection, on_reply)

    def _sort(self, writer: ServerWriter) -> None:
        """Give what has moved away from a server to the writer of the other.

        Only what is of the writer that asks: others may have flushes under way.
        """
        for log, home in list(self._homes.items()):
            if home is writer and (new := self._writer_of(log.keys)) is not writer:
                self._homes[log] = new
                new.adopt(log, writer.remove(log))

    def _settled(self, settlement: Settlement, ours: bool) -> None:
        if ours:
            settlement.log.acknowledge(settlement.log.sealed)
        self.abandon(settlement.log)
        settlement.settled.set_result(ours)
