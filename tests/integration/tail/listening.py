"""A sink, and what the server knows of its subscribers."""

from __future__ import annotations

import os

from redis.asyncio import Redis

from darkq.redis.pubsub import Live
from darkq.redis.raw import RawConnection
from support.waiting import wait_until


class Sink:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.gaps = 0

    def deliver(self, message: bytes) -> None:
        self.messages.append(message)

    def gap(self) -> None:
        self.gaps += 1


async def listeners(redis: Redis, channel: str) -> int:
    ((_, count),) = await redis.pubsub_numsub(channel)
    return int(count)


def connection_of(live: Live) -> RawConnection | None:
    """Return the raw connection of the subscriber."""
    (subscriber,) = live._subscribers.values()
    return subscriber._connection


async def subscribers(redis: Redis) -> int:
    return len(await redis.client_list(_type="pubsub"))


async def hears(redis: Redis, channel: str, sink: Sink) -> None:
    """Wait until what is published arrives."""
    message = os.urandom(8)
    await redis.publish(channel, message)
    await wait_until("a message", lambda: message in sink.messages)


async def join_and_leave(live: Live, channel: str) -> None:
    async with live.subscribed(channel, Sink()):
        pass
