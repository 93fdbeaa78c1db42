"""One Redis subscriber connection for a whole process, however many listen.

Pub/sub is a fast path and nothing more: a message can be lost with the connection. So every
sink is told when that may have happened (`gap`), and reads the event log again. A `gap` comes
when the connection is lost and once more when the channel is subscribed anew, because only
then is nothing lost any longer.

redis-py's own PubSub reconnects and re-subscribes in silence; this room speaks to a `Line`
instead, to hear of every loss.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError, RedisError

from darkq.connection import brief
from darkq.line import Line, connect

logger = logging.getLogger("darkq.live")

_PING_INTERVAL_S = 5.0
_BACKOFF_MAX_S = 1.0


class Sink(Protocol):
    """Where a channel's messages go. Both calls must return at once and never raise."""

    def deliver(self, message: bytes) -> None:
        """Take a message."""

    def gap(self) -> None:
        """Messages may have been lost."""


class _Channel:
    """The sinks of one channel, and whether the server has confirmed the subscription."""

    def __init__(self) -> None:
        self.sinks: set[Sink] = set()
        self.confirmed = asyncio.Event()

    def gap(self) -> None:
        for sink in self.sinks:
            sink.gap()


class Live:
    """The process's subscriber connection. Opened on first use, closed with `aclose()`.

    A new subscription waits for an absent Redis for `patience_s` seconds, None for as long as
    it takes. Those that are there wait for ever.
    """

    def __init__(self, pool: ConnectionPool, *, patience_s: float | None) -> None:
        self.overflows = 0
        """How often a reader was so slow that what came for it was dropped."""
        self._pool = pool
        self._patience_s = patience_s
        self._channels: dict[bytes, _Channel] = {}
        # A channel left and joined again in haste has a reply of its first life on the way.
        self._replies_due: Counter[bytes] = Counter()
        self._line: Line | None = None
        self._reader: asyncio.Task[None] | None = None
        self._heard = False
        self._closed = False

    @asynccontextmanager
    async def subscribed(self, name: str, sink: Sink) -> AsyncIterator[None]:
        """Deliver a channel's messages to a sink.

        Enters once the server has confirmed the subscription: what is published from then
        on arrives, or a `gap` does. Raises redis-py's `ConnectionError` when patience ends,
        and `RuntimeError` after `aclose()`.
        """
        if self._closed:  # nobody would own the reader's task
            raise RuntimeError("the subscriber connection is closed")
        if self._reader is None:
            self._reader = asyncio.create_task(self._run(), name="darkq-live")
        key = name.encode()
        known = self._channels.get(key)
        channel = known or self._channels.setdefault(key, _Channel())
        channel.sinks.add(sink)
        try:
            if known is None:
                self._subscribe(key)
            await self._confirmed(channel)
            yield
        finally:
            channel.sinks.discard(sink)
            if not channel.sinks and self._channels.get(key) is channel:
                del self._channels[key]
                self._send("UNSUBSCRIBE", key)

    def overflowed(self) -> None:
        """Take note of a reader that was too slow."""
        self.overflows += 1

    async def aclose(self) -> None:
        """Close the connection and end every subscription; there can be no other."""
        self._closed = True
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def _confirmed(self, channel: _Channel) -> None:
        patience = asyncio.timeout(self._patience_s)
        try:
            async with patience:
                await channel.confirmed.wait()
        except TimeoutError:
            raise ConnectionError("no subscriber connection") from None

    def _subscribe(self, *names: bytes) -> None:
        if names and self._line is not None:
            self._replies_due.update(names)
            self._send("SUBSCRIBE", *names)

    def _send(self, *command: str | bytes) -> None:
        """Send if connected; a new connection subscribes to everything anyway."""
        if self._line is not None:
            self._line.send(command)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                connection = await connect(self._pool)
                failures = 0
                try:
                    await self._listen(Line(connection, self._dispatch))
                finally:
                    await connection.disconnect(nowait=True)
            except (RedisError, OSError) as error:
                if failures == 0:
                    logger.warning("no subscriber connection, will keep trying: %s", brief(error))
                failures += 1
                await asyncio.sleep(random.uniform(0, min(_BACKOFF_MAX_S, 0.05 * 2**failures)))

    async def _listen(self, line: Line) -> None:
        """Subscribe, and ping for as long as the line lives. Raises its loss."""
        self._line = line
        self._replies_due.clear()
        self._subscribe(*self._channels)
        try:
            silences, self._heard = 0, True
            while not line.lost.done():
                await asyncio.wait([line.lost], timeout=_PING_INTERVAL_S)
                silences = 0 if self._heard else silences + 1
                if silences == 2:
                    line.fail(ConnectionError("no answer to a ping"))
                self._heard = False
                self._send("PING")  # it may be dead and not closed
            raise line.lost.result()
        finally:
            self._line = None
            for channel in self._channels.values():
                channel.confirmed.clear()
                channel.gap()

    def _dispatch(self, reply: Any) -> None:
        self._heard = True
        if isinstance(reply, Exception):  # subscribing is not allowed
            if self._line is not None:
                self._line.fail(reply)
            return
        kind, name = reply[0], reply[1]
        channel = self._channels.get(name)
        if kind == b"message":
            # Nobody may listen any more: the message crossed the unsubscription.
            for sink in channel.sinks if channel else ():
                sink.deliver(reply[2])
        elif kind == b"subscribe":
            self._replies_due[name] -= 1
            if self._replies_due[name] <= 0:
                del self._replies_due[name]
                if channel is not None:
                    channel.gap()
                    channel.confirmed.set()
