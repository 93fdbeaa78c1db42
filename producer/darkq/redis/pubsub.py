"""What is published, for a whole process: one connection per server, however many listen.

Pub/sub is a fast path and nothing more: a message can be lost with the connection. So every
sink is told when that may have happened (`gap`), and reads the event log again. A `gap` comes
when the connection is lost and once more when the channel is subscribed anew, because only
then is nothing lost any longer.

In a cluster a channel is where the keys of its slot are. When it has moved, its subscriber loses
its connection or is told so; then channels are sorted anew among the subscribers.

One connection that is subscribed to channels of one server.

redis-py's own PubSub reconnects and re-subscribes in silence; this room speaks to a `Line`
instead, to hear of every loss.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

from redis.exceptions import ConnectionError, RedisError

from darkq.redis.pool import brief
from darkq.redis.raw import Line
from darkq.redis.servers import Servers
from darkq.redis.url import Address
from darkq.telemetry.logging import LogEvent


class Live:
    """The process's subscribers. Connected on first use, closed with `aclose()`.

    A new subscription waits for an absent Redis for `patience_s` seconds, None for as long as
    it takes. Those that are there wait for ever.
    """

    def __init__(self, servers: Servers, *, patience_s: float | None) -> None:
        self.overflows = 0
        """How often a reader was so slow that what came for it was dropped."""
        self._servers = servers
        self._patience_s = patience_s
        self._channels: dict[bytes, Channel] = {}
        self._subscribers: dict[Address, Subscriber] = {}
        self._closed = False

    @asynccontextmanager
    async def subscribed(self, name: str, sink: Sink) -> AsyncIterator[None]:
        """Deliver a channel's messages to a sink.

        Enters once the server has confirmed the subscription: what is published from then
        on arrives, or a `gap` does. Raises redis-py's `ConnectionError` when patience ends,
        and `RuntimeError` after `aclose()`.
        """
        with suppress(RedisError, OSError):  # else whoever is asked sends us elsewhere
            await self._servers.know()
        with self.listening(name, sink) as channel:
            try:
                async with asyncio.timeout(self._patience_s):
                    await channel.confirmed.wait()
            except TimeoutError:
                raise ConnectionError("no subscriber connection") from None
            yield

    @contextmanager
    def listening(self, name: str, sink: Sink) -> Iterator[Channel]:
        """As `subscribed`, but wait for no server: a `gap` tells when one has confirmed."""
        self._servers.loop.check()
        if self._closed:  # nobody would own the subscriber's task
            raise RuntimeError("the subscriber connection is closed")
        key = name.encode()
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(name)
            self._subscriber_of(channel).add(channel)
        channel.sinks.add(sink)
        try:
            yield channel
        finally:
            channel.sinks.discard(sink)
            if not channel.sinks and self._channels.get(key) is channel:
                del self._channels[key]
                channel.leave()

    def overflowed(self) -> None:
        """Take note of a reader that was too slow."""
        self.overflows += 1

    async def aclose(self) -> None:
        """Close the connections and end every subscription; there can be no other."""
        self._closed = True
        subscribers, self._subscribers = self._subscribers, {}
        for subscriber in subscribers.values():
            await subscriber.aclose()

    def _subscriber_of(self, channel: Channel) -> Subscriber:
        owner = self._servers.owner(channel.name)
        if owner not in self._subscribers:
            self._subscribers[owner] = Subscriber(self._servers, owner, on_loss=self._sort)
        return self._subscribers[owner]

    def _sort(self) -> None:
        """Give each channel to the subscriber of its server."""
        for channel in self._channels.values():
            subscriber = self._subscriber_of(channel)
            if channel.subscriber is not subscriber:
                channel.leave()
                subscriber.add(channel)


logger = logging.getLogger("darkq.live")

_PING_INTERVAL_S = 5.0
_BACKOFF_MAX_S = 1.0
_MOST_FAILURES = 10


class Sink(Protocol):
    """Where a channel's messages go. Both calls must return at once and never raise."""

    def deliver(self, message: bytes) -> None:
        """Take a message."""

    def gap(self) -> None:
        """Messages may have been lost."""


class Channel:
    """The sinks of one channel, and whether the server has confirmed the subscription."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sinks: set[Sink] = set()
        self.confirmed = asyncio.Event()
        self.subscriber: Subscriber | None = None

    def gap(self) -> None:
        for sink in self.sinks:
            sink.gap()

    def leave(self) -> None:
        """Be subscribed to by nobody."""
        if self.subscriber is not None:
            self.subscriber.remove(self)
            self.subscriber = None
            self.confirmed.clear()
            self.gap()


class Subscriber:
    """Connects when it has a channel, and stays connected.

    When its connection is lost it asks who has what, and calls `on_loss`, which may take channels
    away.
    """

    def __init__(self, servers: Servers, owner: Address, *, on_loss: Callable[[], None]) -> None:
        self._servers = servers
        self._owner = owner
        self._on_loss = on_loss
        self._channels: dict[bytes, Channel] = {}
        # A channel left and joined again in haste has a reply of its first life on the way.
        self._joins_due: Counter[bytes] = Counter()
        self._leaves_due: Counter[bytes] = Counter()
        self._sharded = servers.is_cluster
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard = False
        self._failures = 0  # in a row: a server may let us in, and refuse each subscription

    def add(self, channel: Channel) -> None:
        """Subscribe to a channel."""
        channel.subscriber = self
        name = channel.name.encode()
        self._channels[name] = channel
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="darkq-live")
        self._join(name)

    def remove(self, channel: Channel) -> None:
        """Unsubscribe from a channel."""
        name = channel.name.encode()
        del self._channels[name]
        if self._line is not None:
            self._leaves_due[name] += 1
            self._line.send((self._word("UNSUBSCRIBE"), name))

    async def aclose(self) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _word(self, word: str) -> str:
        return f"S{word}" if self._sharded else word

    def _join(self, *names: bytes) -> None:
        """Subscribe if connected; a new connection subscribes to everything anyway."""
        if names and self._line is not None:
            self._joins_due.update(names)
            if self._sharded:  # a command may name channels of one slot only
                self._line.send(*(("SSUBSCRIBE", name) for name in names))
            else:
                self._line.send(("SUBSCRIBE", *names))

    async def _run(self) -> None:
        while True:
            try:
                connection = await self._servers.connect(self._owner)
                try:
                    await self._listen(Line(connection, self._dispatch))
                finally:
                    await connection.disconnect(nowait=True)
            except Exception as error:  # whatever it is, readers wait for the next connection
                if self._failures == 0:
                    line = LogEvent(
                        "no subscriber connection, will keep trying", error=brief(error)
                    )
                    logger.warning(line)
                self._failures = min(self._failures + 1, _MOST_FAILURES)
                pause_s = min(_BACKOFF_MAX_S, 0.05 * 2**self._failures)
                await asyncio.sleep(random.uniform(0, pause_s))
                await self._look_again()
                if not self._channels:  # the server may be gone for good
                    return

    async def _look_again(self) -> None:
        with suppress(RedisError, OSError):
            await self._servers.look_again()
        self._on_loss()

    async def _listen(self, line: Line) -> None:
        """Subscribe, and ping for as long as the line lives. Raises its loss."""
        self._line = line
        self._joins_due.clear()
        self._leaves_due.clear()
        self._join(*self._channels)
        try:
            silences, self._heard = 0, True
            while not line.lost.done():
                await asyncio.wait([line.lost], timeout=_PING_INTERVAL_S)
                silences = 0 if self._heard else silences + 1
                if silences == 2:
                    line.fail(ConnectionError("no answer to a ping"))
                self._heard = False
                line.send(("PING",))  # it may be dead and not closed
            raise line.lost.result()
        finally:
            self._line = None
            for channel in self._channels.values():
                channel.confirmed.clear()
                channel.gap()

    def _dispatch(self, reply: Any) -> None:
        self._heard = True
        if isinstance(reply, Exception):
            self._refused(reply)
            return
        self._failures = 0
        kind, name = reply[0], reply[1]
        channel = self._channels.get(name)
        if kind in (b"message", b"smessage"):
            # Nobody may listen any more: the message crossed the unsubscription.
            for sink in channel.sinks if channel else ():
                sink.deliver(reply[2])
        elif kind in (b"subscribe", b"ssubscribe"):
            if _is_last(self._joins_due, name) and channel is not None:
                channel.gap()
                channel.confirmed.set()
        elif kind in (b"unsubscribe", b"sunsubscribe") and not self._leaves_due[name]:
            self._refused(ConnectionError("a channel has moved to another server"))
        elif kind in (b"unsubscribe", b"sunsubscribe"):
            _is_last(self._leaves_due, name)

    def _refused(self, error: Exception) -> None:
        """A subscription is not allowed, or not here any more."""
        if "unknown command" in str(error):  # SSUBSCRIBE, before Redis 7; one error for each
            if self._sharded:
                self._sharded = False
                self._joins_due.clear()
                self._join(*self._channels)
        elif self._line is not None:
            self._line.fail(error)


def _is_last(due: Counter[bytes], name: bytes) -> bool:
    """Count a reply; tell whether no other of its kind is on the way."""
    due[name] -= 1
    if due[name] > 0:
        return False
    del due[name]
    return True
