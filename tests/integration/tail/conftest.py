"""A subscriber connection, a job played by hand, and readers of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Settings
from darkq.event import START, AnyEvent, Chunk, Cursor
from darkq.jobs.tail import tail
from darkq.protocol.keys import JobKeys
from darkq.redis.pubsub import Channel, Live, Subscriber
from darkq.redis.servers import servers_of
from support.by_hand import Hand


class Lossy(Live):
    """Loses messages in silence, as a connection never would."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.to_lose = 0

    def _subscriber_of(self, channel: Channel) -> Subscriber:
        subscriber = super()._subscriber_of(channel)
        hear = subscriber._dispatch

        def lose(response: Any) -> None:
            if response[0] == b"message" and self.to_lose:
                self.to_lose -= 1
            else:
                hear(response)

        if subscriber._task is None:
            subscriber._dispatch = lose  # type: ignore[assignment]
        return subscriber


class Reader:
    """Reads a job's events in a task of its own; `seen` is what it has got."""

    def __init__(self, redis: Redis, live: Live, keys: JobKeys, after: Cursor = START) -> None:
        self.seen: list[AnyEvent] = []
        self.batches = 0
        self._tail = tail(redis, live, keys, after)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._tail) as batches:
            async for batch in batches:
                self.batches += 1
                self.seen += batch

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.seen]

    def text(self, attempt: int) -> str:
        chunks = [event for event in self.seen if isinstance(event, Chunk)]
        return "".join(event.text for event in chunks if event.cursor.attempt == attempt)

    async def end(self, timeout_s: float = 10) -> None:
        """Wait for the terminal event; raise what the tail raised."""
        await asyncio.wait_for(asyncio.shield(self.task), timeout_s)

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
async def live(settings: Settings) -> AsyncIterator[Lossy]:
    live = Lossy(servers_of(settings), patience_s=5)
    yield live
    await live.aclose()


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


StartReader = Callable[..., Reader]


@pytest.fixture
async def read(redis: Redis, live: Lossy) -> AsyncIterator[StartReader]:
    """Start readers of a job; those that still read at the end of the test leave."""
    readers: list[Reader] = []

    def start(keys: JobKeys, after: Cursor = START) -> Reader:
        readers.append(Reader(redis, live, keys, after))
        return readers[-1]

    yield start
    for reader in readers:
        await reader.leave()
