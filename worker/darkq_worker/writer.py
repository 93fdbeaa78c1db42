"""Group commit: one writer for all jobs of a worker process.

    attempt ── add() ────► AttemptLog ┐
    attempt ── add() ────► AttemptLog ┼── one pipeline in flight ──► Redis
    attempt ── settle() ──────────────┘

Whatever waits goes out as soon as the previous flush has returned. Idle: one chunk, one round
trip, no added delay. Busy: a flush carries more by itself, and a job's waiting chunks go as
one event. The buffer is bounded by a `Budget`: whoever reads an upstream waits for room, and
nothing is dropped.

After a lost connection nobody knows what Redis took, and a Redis that restarted may have
forgotten what it had acknowledged. So nothing is sent over a new connection until every log
has been asked where it stands; then the writer goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, RedisError

from darkq import scripts
from darkq.connection import brief, pool
from darkq.event import Cursor
from darkq.keys import JobKeys
from darkq.settings import Settings
from darkq_worker.attempt_log import AttemptLog, Entry
from darkq_worker.budget import Budget
from darkq_worker.settlement import Settlement

logger = logging.getLogger("darkq.worker.writer")

_BACKOFF_MAX_S = 1.0


class _Append(NamedTuple):
    """A log, and its events in this flush."""

    log: AttemptLog
    entries: list[Entry]


class Writer:
    """Flushes the logs and settles the jobs of a worker. `run()` is its one task."""

    def __init__(self, settings: Settings) -> None:
        self.budget = Budget(settings.worker_buffer_chars)
        # One connection, no retries: this room itself decides what is sent again.
        self._pool = pool(settings, patience_s=0, connections=1, on_connect=self._on_connect)
        self._redis = Redis.from_pool(self._pool)
        self._in_step = False
        self._open: set[AttemptLog] = set()
        self._dirty: dict[AttemptLog, None] = {}
        self._settlements: list[Settlement] = []
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    async def aclose(self) -> None:
        """Close the connection. End `run()` before."""
        await self._redis.aclose()
        await self._pool.aclose()

    def open(self, keys: JobKeys, attempt: int, *, on_lost: Callable[[], object]) -> AttemptLog:
        """Begin the log of an attempt. `settle` or `abandon` ends it."""
        log = AttemptLog(keys, attempt, self.budget, on_work=self._on_work, on_lost=on_lost)
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
        self._work.set()
        return settlement.settled

    async def drained(self) -> None:
        """Wait until every settlement has reached Redis."""
        await self._drained.wait()

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            logs, self._dirty = list(self._dirty), {}
            settlements, self._settlements = self._settlements, []
            await self._commit(logs, settlements)
            if not self._settlements:
                self._drained.set()

    async def _on_connect(self, connection: AbstractConnection) -> None:
        """Refuse a connection that redis-py made anew in silence, in the midst of a flush."""
        if self._in_step:
            self._in_step = False
            raise ConnectionError("the connection was lost")
        await connection.on_connect()

    def _on_work(self, log: AttemptLog) -> None:
        self._dirty[log] = None
        self._work.set()

    async def _commit(self, logs: list[AttemptLog], settlements: list[Settlement]) -> None:
        """Flush; after an error find out where the logs stand, and flush again."""
        failures = 0
        while True:
            try:
                if not self._in_step:
                    logs = await self._resume()
                    self._in_step = True
                await self._flush(logs, settlements)
                break
            except (RedisError, OSError) as error:
                self._in_step = False
                if failures == 0:
                    logger.warning("flush failed, will try until Redis is back: %s", brief(error))
                failures += 1
                await asyncio.sleep(random.uniform(0, min(_BACKOFF_MAX_S, 0.02 * 2**failures)))
                settlements = [s for s in settlements if not s.settled.done()]
        for log in logs:
            if log.has_work:  # more waited than one event may hold
                self._on_work(log)

    async def _flush(self, logs: Iterable[AttemptLog], settlements: Sequence[Settlement]) -> None:
        """Send one pipeline and take in its replies. Raises its first error, if any."""
        calls: dict[int, list[_Append]] = {}
        for log in logs:
            if entries := log.seal():
                calls.setdefault(log.keys.partition, []).append(_Append(log, entries))
        pipe = self._redis.pipeline(transaction=False)
        for call in calls.values():
            _append(pipe, call)
        for settlement in settlements:
            script, keys, args = settlement.call()
            pipe.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        replies = await pipe.execute(raise_on_error=False)
        for call, reply in zip(calls.values(), replies, strict=False):
            if not isinstance(reply, Exception):
                _take_in(call, reply)
        for settlement, reply in zip(settlements, replies[len(calls) :], strict=True):
            if not isinstance(reply, Exception):
                self._settled(settlement, ours=reply == 1)
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors:
            raise errors[0]

    def _settled(self, settlement: Settlement, *, ours: bool) -> None:
        self.abandon(settlement.log)
        settlement.settled.set_result(ours)

    async def _resume(self) -> list[AttemptLog]:
        """Ask every log where it stands; return those that have something to append."""
        await scripts.load(self._redis)
        logs = list(self._open)
        pipe = self._redis.pipeline(transaction=False)
        for log in logs:
            pipe.xrevrange(log.keys.events, count=1)
        for log, last in zip(logs, await pipe.execute(), strict=True):
            log.resume(Cursor.parse(last[0][0]) if last else None)
        return [log for log in logs if log.has_work]


def _append(pipe: Any, call: Sequence[_Append]) -> None:
    keys: list[str] = []
    args: list[str | bytes] = []
    for log, entries in call:
        for entry in entries:
            keys.append(log.keys.events)
            args += (log.keys.live, *entry)
    pipe.execute_command("EVALSHA", scripts.append.sha, len(keys), *keys, *args)


def _take_in(call: Sequence[_Append], refused: Iterable[int]) -> None:
    refusing = set(refused)
    first = 0
    for log, entries in call:
        numbers = range(first, first + len(entries))
        first = numbers.stop
        if refusing.isdisjoint(numbers):
            log.acknowledge(Cursor.parse(entries[-1].id).seq + 1)
        else:
            log.lose()
