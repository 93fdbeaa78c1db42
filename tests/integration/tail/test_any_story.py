"""Whatever happens, a reader has each event once and in order, and the text of the result.

A story is a list of steps: events are appended, attempts fail or are taken over, readers come,
go and come back with any cursor they have had, connections are killed, messages lost and
mailboxes overrun. Readers see it through the real scripts on a real server.

hypothesis explores anew on every run and prints how to repeat a failure; where `CI` is set its
own profile makes every run the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from redis.asyncio import Redis

from darkq import Settings
from darkq import event as ev
from darkq.event import START, AnyEvent, Cursor
from darkq.jobs import mailbox
from darkq.jobs import tail as log_pages
from darkq.protocol.answer_events import build_terminal_event
from darkq.protocol.keys import PartitionKeys
from darkq.protocol.record import decode_result
from darkq.redis.servers import servers_of
from support.by_hand import Hand, chunk, history_of, started
from support.servers import Server

from .conftest import Lossy, Reader

READERS = 3

readers = st.integers(0, READERS - 1)
steps = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 9)),
    st.tuples(st.just("append"), st.integers(1, 2)),
    st.tuples(st.just("fail"), st.integers(0, 2)),
    st.tuples(st.just("take_over"), st.integers(0, 2)),
    st.tuples(st.just("join"), readers, st.integers(0, 1000)),
    st.tuples(st.just("leave"), readers),
    st.tuples(st.just("kill")),
    st.tuples(st.just("lose"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.integers(1, 4)),
)
places = st.lists(st.integers(0, 1000), min_size=READERS, max_size=READERS)


class Story:
    """A job, its worker, and its readers."""

    def __init__(self, redis: Redis, live: Lossy) -> None:
        self.redis, self.live = redis, live
        self.hand = Hand(redis)
        self.readers: list[Reader | None] = [None] * READERS
        self.seen: list[list[AnyEvent]] = [[] for _ in range(READERS)]
        self.texts: list[str] = []

    async def begin(self) -> None:
        await self.hand.enqueue()
        await self.claim()

    async def claim(self) -> None:
        self.job = await self.hand.claim_one()
        self.texts = []
        assert await self.hand.append(self.job, started(self.job.attempt)) == []

    async def append(self, count: int) -> None:
        """One flush of a worker: some events in one call."""
        texts = [f"{self.job.attempt}.{len(self.texts) + n} ü" for n in range(count)]
        first = len(self.texts) + 1
        self.texts += texts
        events = [chunk(self.job.attempt, first + n, text) for n, text in enumerate(texts)]
        assert await self.hand.append(self.job, *events) == []

    async def fail(self, pause: int) -> None:
        """The attempt fails, and the next one begins."""
        at = Cursor(self.job.attempt, len(self.texts) + 1)
        retrying = ev.Retrying(
            id=str(at), attempt=at.attempt, reason="r", retry_in_s=0, at_ms=1
        )  # fmt: skip
        assert await self.hand.release(self.job, retrying, delay_ms=0) == 1
        await self.wait(pause)
        await self.claim()

    async def take_over(self, pause: int) -> None:
        """The lease runs out, and another worker goes on; the old one's text is refused."""
        zombie, count = self.job, len(self.texts)
        await self.redis.delete(zombie.keys.in_progress)
        await self.redis.zadd(PartitionKeys(0).queue("interactive"), {zombie.keys.arq_id: 1})
        await self.wait(pause)
        await self.claim()
        late = chunk(zombie.attempt, count + 1, "too late")
        assert await self.hand.append(zombie, late) == [0]

    async def join(self, number: int, place: int) -> None:
        """Come, or come back with any cursor that this reader has had."""
        await self.leave(number)
        seen = self.seen[number]
        del seen[place % (len(seen) + 1) :]
        after = seen[-1].cursor if seen else START
        reader = self.start_reader(after)
        reader.seen = seen
        self.readers[number] = reader

    def start_reader(self, after: Cursor) -> Reader:
        return Reader(self.redis, self.live, self.job.keys, after)

    async def leave(self, number: int) -> None:
        if (reader := self.readers[number]) is not None:
            await reader.leave()
            self.readers[number] = None

    async def kill(self) -> None:
        await self.redis.client_kill_filter(_type="pubsub")

    async def lose(self, count: int) -> None:
        """The next messages are lost. The last of all is not: only silence would tell of it."""
        self.live.to_lose = count

    async def wait(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    async def end(self, places: list[int], *, has_history: bool) -> tuple[str, list[AnyEvent]]:
        """Complete the job, and let every reader come to the end.

        Those that are away come back with the cursor at a place. Returns the result's text, and the
        log as it is with the last event.
        """
        await self.append(1)
        self.live.to_lose = 0
        log = await self._read_log()
        text, at = "".join(self.texts), Cursor(self.job.attempt, len(self.texts) + 1)
        begin = next(n for n, event in enumerate(log) if event.id == f"{at.attempt}-0")
        history = history_of(log[begin:]) if has_history else UNSET
        record = await self.hand.complete(self.job, text, at, history=history)
        log.append(build_terminal_event(record, at))
        for number in range(READERS):
            if self.readers[number] is None:
                await self.join(number, places[number])
        for reader in self.readers:
            assert reader is not None
            await reader.end(5)
        result = decode_result(await self.redis.get(self.job.keys.result)).r
        assert isinstance(result, str)
        assert await self._read_log() == ([] if has_history else log)
        return result, log

    async def _read_log(self) -> list[AnyEvent]:
        entries = await self.redis.xrange(self.job.keys.events)
        return [ev.decode(fields[b"e"]) for _, fields in entries]


async def play(
    url: str,
    story: list[tuple[Any, ...]],
    make_story: Callable[[Redis, Lossy], Story] = Story,
    *,
    places: list[int],
    has_history: bool,
) -> None:
    async with AsyncExitStack() as stack:
        servers = servers_of(Settings.model_validate({"redis_url": url}))
        redis = servers.client()
        stack.push_async_callback(redis.aclose)
        await redis.flushall()
        live = Lossy(servers, patience_s=5)
        stack.push_async_callback(live.aclose)
        tale = make_story(redis, live)
        await tale.begin()
        for name, *arguments in story:
            step: Callable[..., Any] = getattr(tale, name)
            await step(*arguments)
        text, log = await tale.end(places, has_history=has_history)
        for number, seen in enumerate(tale.seen):
            assert [event.id for event in seen] == [event.id for event in log], number
            assert seen == log
            reader = tale.readers[number]
            assert reader is not None
            assert reader.text(tale.job.attempt).encode() == text.encode()
        assert live._channels == {}


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=st.lists(steps, min_size=3, max_size=25), places=places, has_history=st.booleans())
def test_every_reader_has_the_whole_story(
    redis_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    story: list[tuple[Any, ...]],
    places: list[int],
    *,
    has_history: bool,
) -> None:
    """Red without the hole in `follow`, and without the `gap` of a lost connection.

    Red when `finish.lua` leaves out the events of earlier attempts, and when a history is read from
    the event at the cursor.
    """
    monkeypatch.setattr(mailbox, "MAX_MESSAGES", 4)
    monkeypatch.setattr(log_pages, "PAGE_EVENTS", 5)
    asyncio.run(play(redis_server.url, story, places=places, has_history=has_history))
