"""The writing end of one attempt's part of an event log.

Text is added piece by piece and never waits for Redis here. What has come since the last
flush is sealed into one event. A sealed event keeps its number and content for good, so that
it can be sent again after a lost connection.

How much unsent text a worker process may hold.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from typing import NamedTuple

from darkq import event as ev
from darkq.event import Chunk, Cursor, Started
from darkq.protocol.keys import JobKeys
from darkq.telemetry.metrics import CHUNK_RELAY, CHUNKS, Tally


class Entry(NamedTuple):
    """An event on its way into the log."""

    id: str
    event: bytes

    def __repr__(self) -> str:
        return f"Entry({self.id!r})"


class AttemptLog:
    """One attempt's events: `started` is number 0, the chunks follow.

    Pieces are merged up to `max_event_chars`; a longer piece is an event of its own.

    `started` is the event that began the attempt: it tells this run from another of its number.
    `token` is that of the attempt's lease. `on_work` is called when there is something to flush,
    `on_lost` when the log turns out to belong to somebody else by now.
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
        self._waiting: list[str] = []
        self._texts: list[str] = []
        self._merged: list[int] = []
        self._came_s = array("d")  # eight bytes an event
        self._waits_since_s = 0.0
        self._acknowledged = 0
        self._closed = False

    def start(self, *, model: str, upstream: str, at_ms: int, traceparent: str = "") -> None:
        """Write `started`. Comes before any text."""
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

    def add(self, text: str) -> None:
        """Write a piece of text, not empty."""
        self._waiting.append(text)
        chars = len(text)
        self._budget.spend(chars)
        self.chars += chars
        if not self.chunks:
            self.first_chunk_ms = int(time.time() * 1000)
            self.first_chunk_s = time.perf_counter()
        self.chunks += 1
        if len(self._waiting) == 1:  # else the writer knows
            self._waits_since_s = time.perf_counter()
            self._on_work(self)

    def move(self, on_work: Callable[[AttemptLog], None]) -> None:
        """Tell somebody else from now on when there is something to flush."""
        self._on_work = on_work

    def close(self) -> tuple[str, Cursor]:
        """Seal all that waits; return the whole text, and the place of the event after it.

        What is unsent goes with the attempt's settlement from here on.
        """
        self._closed = True
        while self._waiting:
            self._seal_one()
        return "".join(self._texts), Cursor(self.attempt, self.sealed)

    def seal(self) -> list[Entry]:
        """Make one event of what waits, as far as one may hold; return what is unsent."""
        if self._waiting:
            self._seal_one()
        return [self._entry(number) for number in range(self._acknowledged, self.sealed)]

    def acknowledge(self, count: int) -> None:
        """The log holds `count` events of this attempt, be it more or fewer than it did."""
        if self.lost:  # nothing is held any more; a reply may still be on its way
            return
        if count > self._acknowledged:
            self._count(max(0, self._acknowledged - 1), count - 1)
        self._hold(count)

    def resume(self, last: Cursor | None) -> None:
        """Go on after the log's last event, which may be before what it once acknowledged."""
        if last is None or last.attempt > self.attempt:
            self.lose()
        elif last.attempt < self.attempt:
            self.acknowledge(0)
        elif last.seq < self.sealed:
            self.acknowledge(last.seq + 1)
        else:
            self.lose()

    def lose(self) -> None:
        """Write nothing further."""
        if not self.lost:
            self.forget()
            self._on_lost()

    def forget(self) -> None:
        """Drop what was not sent: the attempt has ended."""
        if not self.lost:
            self._hold(self.sealed)
        self._budget.spend(-sum(map(len, self._waiting)))
        self._waiting = []
        self.lost = True

    @property
    def has_work(self) -> bool:
        """Tell whether there is something to append."""
        if self.lost or self._closed:
            return False
        return bool(self._waiting) or self._acknowledged < self.sealed

    @property
    def sealed(self) -> int:
        """How many events there are so far."""
        return len(self._texts) + (self.started is not None)

    def _hold(self, count: int) -> None:
        low, high = sorted((count, self._acknowledged))
        chars = sum(map(len, self._texts[max(0, low - 1) : max(0, high - 1)]))
        self._budget.spend(chars if count < self._acknowledged else -chars)
        self._acknowledged = count

    def _count(self, first: int, end: int) -> None:
        """Count the events with chunks that the log holds now, and how long they took."""
        now_s = time.perf_counter()
        for came_s in self._came_s[first:end]:
            self._tally.observe(CHUNK_RELAY, now_s - came_s)
        if chunks := sum(self._merged[first:end]):
            self._tally.count(CHUNKS, self.upstream, by=chunks)

    def _entry(self, number: int) -> Entry:
        id_ = f"{self.attempt}-{number}"
        if number == 0:
            return Entry(id_, self.started or b"")
        text, merged = self._texts[number - 1], self._merged[number - 1]
        at_ms = self.first_chunk_ms if number == 1 else 0
        return Entry(id_, ev.encode(Chunk(id=id_, text=text, merged=merged, at_ms=at_ms)))

    def _seal_one(self) -> None:
        pieces = self._waiting
        self._came_s.append(self._waits_since_s)
        if len(pieces) == 1:
            self._texts.append(pieces.pop())
            self._merged.append(1)
            return
        taken, chars = 0, 0
        for piece in pieces:
            if taken and chars + len(piece) > self._max_event_chars:
                break
            taken += 1
            chars += len(piece)
        self._texts.append("".join(pieces[:taken]))
        self._merged.append(taken)
        del pieces[:taken]


class Budget:
    """Counts characters. Spending past the limit is allowed; whoever reads more must wait."""

    def __init__(self, limit: int) -> None:
        self.exhausted = False
        """Tells whether `room()` would wait."""
        self.limit = limit
        self.spent = 0
        self._room = asyncio.Event()
        self._room.set()

    def spend(self, chars: int) -> None:
        """Take in text, or give back what has been sent: a negative number."""
        self.spent += chars
        if self.exhausted != (self.spent >= self.limit):
            self.exhausted = not self.exhausted
            if self.exhausted:
                self._room.clear()
            else:
                self._room.set()

    async def room(self) -> None:
        """Wait until there is room for more text."""
        await self._room.wait()
