"""What is published, for a whole process: one connection per server, however many listen.

Pub/sub is a fast path and nothing more: a message can be lost with the connection. So every
sink is told when that may have happened (`gap`), and reads the event log again. A `gap` comes
when the connection is lost and once more when the channel is subscribed anew, because only
then is nothing lost any longer.

In a cluster a channel is where the keys of its slot are. When it has moved, its subscriber loses
its connection or is told so; then channels are sorted anew among the subscribers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from redis.exceptions import ConnectionError, RedisError

from darkq.redis_url import Address
from darkq.servers import Servers
from darkq.subscriber import Channel, Sink, Subscriber


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
