"""The subscriptions of a whole process: one connection per server, for any number of readers.

Pub/sub is only a fast path: messages are lost with the connection. So each sink is notified of
a possible loss (`gap`), and reads the event log again. `gap` is called when the connection is
lost, and again when the server has confirmed the new subscription: messages that were published
in between are lost too.

In a cluster a channel belongs to the server of its slot. When the slot moves, the server cancels
the subscription or closes the connection. Then `Live` assigns all channels to servers anew.

`Subscriber` uses a `RawConnection`, because redis-py's PubSub reconnects and re-subscribes without
reporting the loss.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

from redis.exceptions import ConnectionError, RedisError

from darkq.redis.backoff import backoff_s
from darkq.redis.pool import brief
from darkq.redis.raw import RawConnection
from darkq.redis.servers import Servers
from darkq.redis.url import Address
from darkq.telemetry.logging import LogEvent

logger = logging.getLogger("darkq.live")

_PING_INTERVAL_S = 5.0
_BACKOFF_FIRST_S = 0.05
_BACKOFF_MAX_S = 1.0


class Live:
    """The process's subscribers. Connected on first use, closed with `aclose()`.

    A new subscription waits for an absent Redis for `patience_s` seconds, or without a limit if
    that is None. Existing subscriptions always wait without a limit.
    """

    def __init__(self, servers: Servers, *, patience_s: float | None) -> None:
        self.overflows = 0
        """How often messages were dropped because a reader was too slow."""
        self._servers = servers
        self._patience_s = patience_s
        self._channels: dict[bytes, Channel] = {}
        self._subscribers: dict[Address, Subscriber] = {}
        self._closed = False

    @asynccontextmanager
    async def subscribed(self, name: str, sink: Sink) -> AsyncIterator[None]:
        """Deliver a channel's messages to a sink.

        Enters once the server has confirmed the subscription. From then on each message is
        delivered, or `gap` is called. Raises redis-py's `ConnectionError` when the patience ends,
        and `RuntimeError` after `aclose()`.
        """
        await self.know_servers()
        with self.listening(name, sink) as channel:
            await self.confirm(channel)
            yield

    async def know_servers(self) -> None:
        """Read the slot map if there is none. Without it a subscription may be redirected."""
        with suppress(RedisError, OSError):
            await self._servers.know()

    async def confirm(self, channel: Channel) -> None:
        """Wait until the server has confirmed a subscription. Raises redis-py's `ConnectionError`.

        From then on each message is delivered, or `gap` is called.
        """
        if channel.is_confirmed:
            return
        try:
            async with asyncio.timeout(self._patience_s):
                await channel.wait()
        except TimeoutError:
            raise ConnectionError("no subscriber connection") from None

    @contextmanager
    def listening(self, name: str, sink: Sink) -> Iterator[Channel]:
        """Deliver as `subscribed` does, without waiting: `gap` is called upon confirmation."""
        self._servers.loop.check()
        if self._closed:  # `aclose` has run, so nothing would end a new subscriber's task
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
            # The last reader of a channel unsubscribes; `is` because there may be a newer one.
            if not channel.sinks and self._channels.get(key) is channel:
                del self._channels[key]
                channel.leave()

    def overflowed(self) -> None:
        """Count a reader that was too slow."""
        self.overflows += 1

    async def aclose(self) -> None:
        """Close the connections. Later subscriptions raise `RuntimeError`."""
        self._closed = True
        subscribers, self._subscribers = self._subscribers, {}
        for subscriber in subscribers.values():
            await subscriber.aclose()

    def _subscriber_of(self, channel: Channel) -> Subscriber:
        owner = self._servers.owner(channel.name)
        if owner not in self._subscribers:
            self._subscribers[owner] = Subscriber(self._servers, owner, on_loss=self._reassign)
        return self._subscribers[owner]

    def _reassign(self) -> None:
        """Move each channel to the subscriber of its server."""
        for channel in self._channels.values():
            subscriber = self._subscriber_of(channel)
            if channel.subscriber is not subscriber:
                channel.leave()
                subscriber.add(channel)


class Sink(Protocol):
    """Receives a channel's messages. Both calls must return at once and never raise."""

    def deliver(self, message: bytes) -> None:
        """Receive a message."""

    def gap(self) -> None:
        """Note that messages may have been lost."""


class Channel:
    """The sinks of one channel, and whether the server has confirmed the subscription."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sinks: set[Sink] = set()
        self.is_confirmed = False
        self._confirmed: asyncio.Event | None = None  # only while it is awaited: it takes 760 bytes
        self.subscriber: Subscriber | None = None

    def gap(self) -> None:
        for sink in self.sinks:
            sink.gap()

    def confirm(self) -> None:
        """Note that the server has confirmed the subscription."""
        self.is_confirmed = True
        if self._confirmed is not None:
            self._confirmed.set()
            self._confirmed = None

    async def wait(self) -> None:
        """Wait for `confirm`."""
        while not self.is_confirmed:
            self._confirmed = self._confirmed or asyncio.Event()
            await self._confirmed.wait()

    def leave(self) -> None:
        """End the subscription, and report the gap."""
        if self.subscriber is not None:
            self.subscriber.remove(self)
            self.subscriber = None
            self.is_confirmed = False
            self.gap()


class Subscriber:
    """The connection to one server. Connects with its first channel, and stays connected.

    After a loss it looks for the servers of all keys anew, and calls `on_loss`, which may move
    channels to other subscribers.
    """

    def __init__(self, servers: Servers, owner: Address, *, on_loss: Callable[[], None]) -> None:
        self._servers = servers
        self._owner = owner
        self._on_loss = on_loss
        self._channels: dict[bytes, Channel] = {}
        # Replies that are due, by channel. A channel that was left and joined again in quick
        # succession gets a reply to its first subscription, which must not confirm the second.
        self._joins_due: Counter[bytes] = Counter()
        self._leaves_due: Counter[bytes] = Counter()
        self._sharded = servers.is_cluster
        self._connection: RawConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._received = False  # since the last ping
        # Losses in a row. A reply resets it, not a connect: a server may accept connections and
        # refuse each subscription.
        self._failures = 0

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
        if self._connection is not None:
            self._leaves_due[name] += 1
            word = "SUNSUBSCRIBE" if self._sharded else "UNSUBSCRIBE"
            self._connection.send((word, name))

    async def aclose(self) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _join(self, *names: bytes) -> None:
        """Subscribe if connected. A new connection subscribes to all channels anyway."""
        if names and self._connection is not None:
            self._joins_due.update(names)
            if self._sharded:  # one SSUBSCRIBE may only name channels of one slot
                self._connection.send(*(("SSUBSCRIBE", name) for name in names))
            else:
                self._connection.send(("SUBSCRIBE", *names))

    async def _run(self) -> None:
        while True:
            try:
                connection = await self._servers.connect(self._owner)
                try:
                    await self._listen(RawConnection(connection, self._dispatch))
                finally:
                    await connection.disconnect(nowait=True)
            except Exception as error:  # any error: readers depend on the next connection
                if self._failures == 0:
                    line = LogEvent(
                        "no subscriber connection, will keep trying", error=brief(error)
                    )
                    logger.warning(line)
                pause_s = backoff_s(self._failures, first_s=_BACKOFF_FIRST_S, most_s=_BACKOFF_MAX_S)
                self._failures += 1
                await asyncio.sleep(pause_s)
                with suppress(RedisError, OSError):
                    await self._servers.look_again()
                self._on_loss()
                if not self._channels:  # a server that has left the cluster needs no connection
                    return

    async def _listen(self, connection: RawConnection) -> None:
        """Subscribe, and ping until the connection is lost. Raises the reason."""
        self._connection = connection
        self._joins_due.clear()
        self._leaves_due.clear()
        self._join(*self._channels)
        try:
            silences, self._received = 0, True
            while not connection.lost.done():
                await asyncio.wait([connection.lost], timeout=_PING_INTERVAL_S)
                silences = 0 if self._received else silences + 1
                if silences == 2:
                    connection.fail(ConnectionError("no reply to a ping"))
                self._received = False
                connection.send(("PING",))  # finds a peer that is gone without closing
            raise connection.lost.result()
        finally:
            self._connection = None
            for channel in self._channels.values():
                channel.is_confirmed = False
                channel.gap()

    def _dispatch(self, reply: Any) -> None:
        self._received = True
        if isinstance(reply, Exception):
            self._on_refusal(reply)
            return
        self._failures = 0
        kind, name = reply[0], reply[1]
        channel = self._channels.get(name)
        if kind in (b"message", b"smessage"):
            # There is no channel if the message crossed our UNSUBSCRIBE on the way.
            for sink in channel.sinks if channel else ():
                sink.deliver(reply[2])
        elif kind in (b"subscribe", b"ssubscribe"):
            if _count_reply(self._joins_due, name) and channel is not None:
                # First the gap: a reader that saw the confirmation relies on a complete event log.
                channel.gap()
                channel.confirm()
        elif kind in (b"unsubscribe", b"sunsubscribe"):
            if self._leaves_due[name]:
                _count_reply(self._leaves_due, name)
            else:  # not requested: Redis ends subscriptions to a slot that it has given away
                self._on_refusal(ConnectionError("a channel has moved to another server"))

    def _on_refusal(self, error: Exception) -> None:
        """Handle a subscription that is not allowed, or belongs to another server."""
        if "unknown command" in str(error):  # SSUBSCRIBE before Redis 7: one error per channel
            if self._sharded:
                self._sharded = False
                self._joins_due.clear()
                self._join(*self._channels)
        elif self._connection is not None:
            self._connection.fail(error)


def _count_reply(due: Counter[bytes], name: bytes) -> bool:
    """Count a reply; return True if no other of its kind is due."""
    due[name] -= 1
    if due[name] > 0:
        return False
    del due[name]
    return True
