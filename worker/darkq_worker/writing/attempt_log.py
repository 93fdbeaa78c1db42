"""What a worker writes: the event log of each attempt, and the flush that carries it. No I/O.

    add() ──► waiting pieces ──seal──► numbered events ──flush──► acknowledged by Redis

Pieces are added without waiting for Redis. A flush seals what arrived since the last one into one
event, as far as it is of the same kind. The number and the content of a sealed event never change,
so that it can be sent again after a lost connection.

A `Flush` is one round trip to one server: the sealed events of many attempts, then the
settlements of those that ended. A `Budget` bounds the text that waits in a worker.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from msgspec import UNSET, Raw, UnsetType

from darkq import event as ev
from darkq.errors import NotReplicated
from darkq.event import Chunk, Cursor, Started
from darkq.protocol.history import VERBATIM, pack
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import History, Stretch
from darkq.redis import scripts
from darkq.redis.durability import WaitRule
from darkq.redis.raw import Command
from darkq.telemetry.metrics import CHUNK_RELAY, CHUNKS, Tally
from darkq_worker.leases import Claim
from darkq_worker.pieces import AnyPiece, count_joined, find_stretches, join, make_event

MAX_HISTORY_CHARS = 1 << 20


class Entry(NamedTuple):
    """An event with its entry id, to be appended to the event log."""

    id: str
    event: bytes

    def __repr__(self) -> str:
        return f"Entry({self.id!r})"


class Budget:
    """Counts unsent characters. `spend` may exceed the limit; a reader of more text must wait."""

    def __init__(self, limit: int) -> None:
        self.exhausted = False
        """True if `room()` would wait."""
        self.limit = limit
        self.spent = 0
        self._room = asyncio.Event()
        self._room.set()

    def spend(self, chars: int) -> None:
        """Count new text, or release sent text: a negative number."""
        self.spent += chars
        # An event is set or cleared only when the limit is crossed: this runs for each chunk.
        if self.exhausted != (self.spent >= self.limit):
            self.exhausted = not self.exhausted
            if self.exhausted:
                self._room.clear()
            else:
                self._room.set()

    async def room(self) -> None:
        """Wait until there is room for more text."""
        await self._room.wait()


class AttemptLog:
    """The events of one attempt: `started` is number 0, the pieces follow.

    Pieces are merged up to `max_event_chars`; a longer piece is an event of its own.

    `started` is the event that began the attempt. It distinguishes this run from another run with
    the same number. `token` is the owner token of the lease. `on_work` is called when there is
    something to flush, `on_lost` when the log turns out to belong to another run.
    """

    def __init__(
        self,
        keys: JobKeys,
        attempt: int,
        token: str,
        budget: Budget,
        tally: Tally,
        *,
        on_work: Callable[[AttemptLog], None],
        on_lost: Callable[[], object],
        max_event_chars: int = 64 << 10,
    ) -> None:
        self.keys = keys
        self.attempt = attempt
        self.token = token
        self.ignored: tuple[str, ...] = ()
        """The names of options that the upstream does not support."""
        self.model = ""
        self.upstream = ""
        self.chunks = 0
        self.chars = 0
        self.first_chunk_ms = 0
        self.first_chunk_s = 0.0
        self.lost = False
        self._budget = budget
        self._tally = tally
        self._on_work = on_work
        self._on_lost = on_lost
        self._max_event_chars = max_event_chars
        self.started: bytes | None = None
        self._waiting: list[AnyPiece] = []
        self._pieces: list[AnyPiece] = []  # of the sealed events: event n has piece n - 1
        self._merged: list[int] = []  # how many pieces each has
        self._arrived_s = array("d")  # eight bytes per event
        self._waits_since_s = 0.0
        self._acknowledged = 0
        self._closed = False

    def start(self, *, model: str, upstream: str, at_ms: int, traceparent: str = "") -> None:
        """Write `started`, before any text."""
        self.model, self.upstream = model, upstream
        self.started = ev.encode(
            Started(
                id=str(Cursor(self.attempt, 0)),
                attempt=self.attempt,
                model=model,
                upstream=upstream,
                at_ms=at_ms,
                traceparent=traceparent,
            )
        )
        self._on_work(self)

    def add(self, piece: AnyPiece) -> None:
        """Write a piece, which must not be empty."""
        self._waiting.append(piece)
        chars = len(piece)
        self._budget.spend(chars)
        self.chars += chars
        if not self.chunks:
            self.first_chunk_ms = int(time.time() * 1000)
            self.first_chunk_s = time.perf_counter()
        self.chunks += 1
        if len(self._waiting) == 1:  # otherwise the writer has been called already
            self._waits_since_s = time.perf_counter()
            self._on_work(self)

    def set_on_work(self, on_work: Callable[[AttemptLog], None]) -> None:
        """Replace the callback: another server's writer flushes this log now."""
        self._on_work = on_work

    def close(self) -> tuple[Sequence[AnyPiece], Cursor]:
        """Seal all waiting pieces; return all of the answer, and the cursor of the next event.

        From here on, unsent events are sent with the settlement of the attempt.
        """
        self._closed = True
        while self._waiting:
            self._seal_one()
        return self._pieces, Cursor(self.attempt, self.sealed)

    def make_history(self) -> History | UnsetType:
        """Return what the log of a closed attempt has beside its texts.

        UNSET for an answer of more than `MAX_HISTORY_CHARS`: a reader of a log holds a page of it,
        but a reader of a history holds the answer.
        """
        if self.started is None or self.chars > MAX_HISTORY_CHARS:
            return UNSET
        stretches: list[Stretch] = []
        verbatim: list[Raw] = []
        number = 0
        for kind, index, sizes in find_stretches(self._pieces):
            stretches.append(Stretch(kind, index, pack(sizes)))
            if kind == VERBATIM:
                entries = map(self._entry, range(number + 1, number + 1 + len(sizes)))
                verbatim += [Raw(entry.event) for entry in entries]
            number += len(sizes)
        return History(
            started=Raw(self.started),
            stretches=tuple(stretches),
            merged=pack(self._merged) if any(count != 1 for count in self._merged) else "",
            verbatim=tuple(verbatim),
        )

    def seal(self) -> list[Entry]:
        """Seal waiting text into one event, up to its size limit; return all unsent events."""
        if self._waiting:
            self._seal_one()
        return [self._entry(number) for number in range(self._acknowledged, self.sealed)]

    def acknowledge(self, count: int) -> None:
        """Note that the log in Redis has `count` events of this attempt.

        These may be fewer than before: a Redis that restarted or failed over may have lost some.
        """
        if self.lost:  # everything was dropped; a reply may still arrive
            return
        if count > self._acknowledged:
            # Event 0 is `started`, so event n is element n - 1 of the lists.
            self._count(max(0, self._acknowledged - 1), count - 1)
        self._set_acknowledged(count)

    def resume(self, last: Cursor | None) -> None:
        """Continue after the last event of the log in Redis, or lose the log.

        It is lost if Redis has a later attempt, more events of this attempt than were sealed
        here, or no log at all: another run owns the job, or the job is gone.
        """
        if last is None or last.attempt > self.attempt:
            self.lose()
        elif last.attempt < self.attempt:
            self.acknowledge(0)
        elif last.seq < self.sealed:
            self.acknowledge(last.seq + 1)
        else:
            self.lose()

    def lose(self) -> None:
        """Write nothing more: the job belongs to another run."""
        if not self.lost:
            self.drop()
            self._on_lost()

    def drop(self) -> None:
        """Drop unsent text: the attempt has ended."""
        if not self.lost:
            self._set_acknowledged(self.sealed)
        self._budget.spend(-sum(map(len, self._waiting)))
        self._waiting = []
        self.lost = True

    @property
    def has_work(self) -> bool:
        """True if there is something to append."""
        if self.lost or self._closed:
            return False
        return bool(self._waiting) or self._acknowledged < self.sealed

    @property
    def sealed(self) -> int:
        """The number of sealed events."""
        return len(self._pieces) + (self.started is not None)

    def _set_acknowledged(self, count: int) -> None:
        # Only unacknowledged text counts in the budget. If Redis lost events, their text does
        # again, so that a worker never holds more than the budget, however often it must resend.
        low, high = sorted((count, self._acknowledged))
        chars = sum(map(len, self._pieces[max(0, low - 1) : max(0, high - 1)]))
        self._budget.spend(chars if count < self._acknowledged else -chars)
        self._acknowledged = count

    def _count(self, first: int, end: int) -> None:
        """Count the chunks that Redis has now, and the time that they took."""
        now_s = time.perf_counter()
        for arrived_s in self._arrived_s[first:end]:
            self._tally.observe(CHUNK_RELAY, now_s - arrived_s)
        if chunks := sum(self._merged[first:end]):
            self._tally.count(CHUNKS, self.upstream, by=chunks)

    def _entry(self, number: int) -> Entry:
        # Encoded anew each time: the text is kept once, and resends are rare.
        id_ = f"{self.attempt}-{number}"
        if number == 0:
            return Entry(id_, self.started or b"")
        piece, merged = self._pieces[number - 1], self._merged[number - 1]
        at_ms = self.first_chunk_ms if number == 1 else 0
        if type(piece) is str:  # nearly always: spare the call
            event: ev.Piece = Chunk(id=id_, text=piece, merged=merged, at_ms=at_ms)
        else:
            event = make_event(id_, piece, merged=merged, at_ms=at_ms)
        return Entry(id_, ev.encode(event))

    def _seal_one(self) -> None:
        pieces = self._waiting
        self._arrived_s.append(self._waits_since_s)
        if len(pieces) == 1:  # an idle writer: the common case by far
            self._pieces.append(pieces.pop())
            self._merged.append(1)
            return
        count = count_joined(pieces, self._max_event_chars)
        self._pieces.append(join(pieces[:count]))
        self._merged.append(count)
        del pieces[:count]


class Settlement:
    """The script call that ends an attempt. `settled` becomes True if the job was still ours."""

    def __init__(self, claim: Claim, log: AttemptLog) -> None:
        self.claim = claim
        self.log = log
        self.settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def command(self, *, in_cluster: bool) -> Command:
        """Return the script call that ends the attempt, unsent text included."""
        raise NotImplementedError


class _Part(NamedTuple):
    """A log's events in this flush, and how many events Redis has when they are appended."""

    log: AttemptLog
    entries: list[Entry]
    stored: int


_Call: TypeAlias = tuple[Command, Callable[[Any], None]]
_OnSettled: TypeAlias = Callable[[Settlement, bool], None]


class Flush:
    """One `append` per partition, then the settlements.

    With `wait`, the settlements count only once enough replicas have them.

    `error` is the first error reply that is worth a retry; its command was not executed. If a
    settlement fails with another error, it is settled as False: the job is not ours.
    """

    def __init__(
        self,
        logs: Iterable[AttemptLog],
        settlements: Sequence[Settlement],
        *,
        in_cluster: bool,
        wait: WaitRule,
        on_settled: _OnSettled,
    ) -> None:
        self.logs: list[AttemptLog] = []
        self.settlements = settlements
        self.error: Exception | None = None
        self._calls: list[_Call] = []
        self._received = 0
        partitions: dict[int, list[_Part]] = {}
        for log in logs:
            # Always all unsent events: after a reconnect, these are more than the latest one.
            if entries := log.seal():
                self.logs.append(log)
                part = _Part(log, entries, log.sealed)
                partitions.setdefault(log.keys.partition, []).append(part)
        for parts in partitions.values():
            self._calls.append(_append(parts, in_cluster))
        # A settlement that Redis always refuses (a key of another type) ends only its own job.
        # `append` needs no such rule: it returns the logs that it refused.
        self._settling = range(len(self._calls) + 1, len(self._calls) + len(settlements) + 1)
        pending: list[tuple[Settlement, bool]] = []
        waits = bool(settlements) and wait.replicas > 0
        on_reply = (lambda *settled: pending.append(settled)) if waits else on_settled
        for settlement in settlements:
            self._calls.append(_settle(settlement, in_cluster, on_reply))
        if waits:
            # WAIT counts only writes of its own connection, and needs at least one. A settlement
            # that was repeated may write nothing: so a mark is written in any case.
            mark, await_replicas = wait.commands(settlements[0].log.keys.job)
            self._calls.append((mark, lambda _: None))
            self._calls.append((await_replicas, _on_replicated(wait, pending, on_settled)))

    @property
    def commands(self) -> list[Command]:
        return [command for command, _ in self._calls]

    def receive(self, reply: Any) -> bool:
        """Process the reply to the next command; return True if it was the last one."""
        _, on_reply = self._calls[self._received]
        self._received += 1
        if not isinstance(reply, Exception):
            try:
                on_reply(reply)
            except NotReplicated as error:
                self.error = self.error or error
        elif self._received in self._settling and is_permanent(reply):
            on_reply(None)
        elif self.error is None:
            self.error = reply
        return self._received == len(self._calls)


def is_permanent(error: Exception) -> bool:
    """Return True if Redis would return the same error again: the key has a foreign type."""
    return "WRONGTYPE" in str(error)


def _append(parts: Sequence[_Part], in_cluster: bool) -> _Call:
    logs = [(log.keys, entries) for log, entries, _ in parts]

    def on_reply(refused: Sequence[int]) -> None:
        # One refused event means that a later attempt exists: the whole log is lost.
        for part, accepted in zip(parts, scripts.append_accepted(refused, logs), strict=True):
            if accepted:
                part.log.acknowledge(part.stored)
            else:
                part.log.lose()

    return scripts.append_call(logs, in_cluster=in_cluster), on_reply


def _settle(settlement: Settlement, in_cluster: bool, on_settled: _OnSettled) -> _Call:
    command = settlement.command(in_cluster=in_cluster)
    return command, lambda reply: on_settled(settlement, scripts.was_ours(reply))


def _on_replicated(
    wait: WaitRule, pending: Sequence[tuple[Settlement, bool]], on_settled: _OnSettled
) -> Callable[[int], None]:
    def on_reply(replicas: int) -> None:
        wait.check(replicas)
        for settlement, ours in pending:
            on_settled(settlement, ours)

    return on_reply
