"""A subscriber connection, a job played by hand, and readers of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Settings
from darkq import event as ev
from darkq.event import START, AnyEvent, Chunk, Cursor
from darkq.jobs.fanout import Fanouts, Share
from darkq.jobs.tail import tail
from darkq.protocol.keys import JobKeys
from darkq.redis.pubsub import Channel, Live, Subscriber
from darkq.redis.servers import servers_of
from darkq.sse import EventDecoder
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


class Socket(Reader):
    """A reader whose socket takes nothing while it is `full`; `seen` is what it took."""

    def __init__(self, fanouts: Fanouts, keys: JobKeys, after: Cursor = START) -> None:
        self.seen: list[AnyEvent] = []
        self.batches = 0
        self.pings = 0
        self.sent = 0
        self.is_live = False
        self._full = asyncio.Condition()
        self.full = False
        self._decoder = EventDecoder()
        last_id = None if after == START else str(after)
        self.task = asyncio.create_task(fanouts.follow(keys.public_id, last_id, self))

    def take(self, frames: bytes) -> None:
        self.seen += [ev.decode(event.data) for event in self._decoder.feed(frames)]
        self.batches += 1

    async def begin(self) -> None:
        await asyncio.sleep(0)

    async def send(self, frames: bytes) -> None:
        assert not self.is_live
        self.sent += 1
        self.take(frames)
        await self._has_room()

    def enter_live(self) -> None:
        assert not self.is_live
        assert not self.full
        self.is_live = True

    def deliver(self, share: Share) -> bool:
        assert self.is_live
        assert share.chunked == b"%x\r\n%b\r\n" % (len(share.plain), share.plain)
        self.take(share.plain)
        return not self.full

    def ping(self) -> bool:
        self.pings += 1
        return not self.full

    async def leave_live(self) -> None:
        assert self.is_live
        self.is_live = False
        await self._has_room()

    async def _has_room(self) -> None:
        async with self._full:
            await self._full.wait_for(lambda: not self.full)

    async def empty(self) -> None:
        self.full = False
        async with self._full:
            self._full.notify_all()


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
def fanouts(redis: Redis, live: Lossy) -> Fanouts:
    return Fanouts(redis, live, ping_after_s=30, on_relayed=lambda seconds, readers: None)


@pytest.fixture(params=["alone", "shared"])
async def read(
    request: pytest.FixtureRequest, redis: Redis, live: Lossy, fanouts: Fanouts
) -> AsyncIterator[StartReader]:
    """Start readers of a job, each with a tail of its own or all with one fan-out.

    Those that still read at the end of the test leave.
    """
    readers: list[Reader] = []

    def start(keys: JobKeys, after: Cursor = START) -> Reader:
        is_shared = request.param == "shared"
        reader = Socket(fanouts, keys, after) if is_shared else Reader(redis, live, keys, after)
        readers.append(reader)
        return reader

    yield start
    for reader in readers:
        await reader.leave()
    assert fanouts._fanouts == {}
