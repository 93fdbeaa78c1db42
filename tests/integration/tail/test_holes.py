"""Lost messages, lost connections, holes: the log has it all, or an error says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CursorGone
from darkq.event import START, Cursor
from darkq.jobs import mailbox
from darkq.jobs import tail as event_log
from darkq.jobs import tail as log_pages
from darkq.protocol.keys import JobKeys
from support.by_hand import Hand, chunk, event_ids, silent
from support.waiting import wait_until

from .conftest import Lossy, StartReader
from .scenes import completed, in_mid_stream


class TestHoles:
    @pytest.mark.parametrize("missing", ["1-0", "1-2", "1-3"])
    async def test_a_hole_in_the_log_is_an_error_never_a_silent_loss(
        self, hand: Hand, redis: Redis, read: StartReader, missing: str
    ) -> None:
        """Red without the check of each event's place in `_read`."""
        claim = await completed(hand)
        ids = await event_ids(redis, claim.keys)
        await redis.xdel(claim.keys.events, missing)
        reader = read(claim.keys)
        with pytest.raises(CursorGone):
            await reader.end(2)
        assert reader.ids == ids[: len(reader.ids)]

    async def test_a_lost_message_is_found_in_the_log(
        self, hand: Hand, redis: Redis, live: Lossy, read: StartReader
    ) -> None:
        """Red without the hole in `follow`: the reader would never end, or miss an event."""
        claim = await in_mid_stream(hand)
        reader = read(claim.keys)
        await wait_until("all of it", lambda: reader.ids[-1:] == ["1-3"])
        live.to_lose = 2
        await hand.append(claim, chunk(1, 4), chunk(1, 5))
        await wait_until("the loss", lambda: live.to_lose == 0)
        await hand.append(claim, chunk(1, 6))
        await wait_until("all of it", lambda: reader.ids[-1:] == ["1-6"])
        await hand.complete(claim, "x" * 6, Cursor(1, 7))
        await reader.end()
        assert reader.ids == await event_ids(redis, claim.keys)

    async def test_a_lost_end_is_found_after_some_silence(
        self, hand: Hand, live: Lossy, read: StartReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(event_log, "SILENCE_S", 0.1)
        claim = await in_mid_stream(hand)
        reader = read(claim.keys)
        await wait_until("all of it", lambda: reader.ids[-1:] == ["1-3"])
        live.to_lose = 1
        await hand.complete(claim, "xxx", Cursor(1, 4))
        await reader.end()
        assert reader.ids[-1] == "1-4"
        assert live.to_lose == 0

    async def test_what_is_published_while_the_log_is_read_is_not_lost(
        self, hand: Hand, live: Lossy, read: StartReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Red with `mailbox.forget()` after reading the log instead of before: the event comes
        between the two, and only its message tells of it. (Nothing else would for 30 s.)
        """
        claim = await in_mid_stream(hand)
        end = ev.Completed(id="1-4", at_ms=1)
        read_log, written = log_pages.read_page, asyncio.Event()

        async def read_then_write(
            redis: Redis, keys: JobKeys, cursor: Cursor, **started: Any
        ) -> Any:
            page = await read_log(redis, keys, cursor, **started)
            if not written.is_set():
                written.set()
                await hand.finish(claim, end)
                await wait_until("the message", lambda: _mail(live, keys))
            return page

        monkeypatch.setattr(log_pages, "read_page", read_then_write)
        reader = read(claim.keys)
        await reader.end(5)
        assert reader.ids == ["0-1", "1-0", "1-1", "1-2", "1-3", "1-4"]

    async def test_an_overflow_is_caught_up_from_the_log_and_then_there_is_peace(
        self, hand: Hand, redis: Redis, read: StartReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Red without `mailbox.forget()`: the gap would last, and the log be read in a loop."""
        monkeypatch.setattr(mailbox, "MAX_MESSAGES", 4)
        claim = await in_mid_stream(hand)
        reader = read(claim.keys)
        await wait_until("all of it", lambda: reader.ids[-1:] == ["1-3"])
        await hand.append(claim, *(chunk(1, n) for n in range(4, 50)))
        await wait_until("all of it", lambda: reader.ids[-1:] == ["1-49"])
        reads = await _reads(redis)
        await hand.append(claim, chunk(1, 50))
        await wait_until("live again", lambda: reader.ids[-1:] == ["1-50"])
        for _ in range(20):  # time enough for hundreds of reads, if it were at it
            await redis.ping()
        assert await _reads(redis) - reads <= 2
        assert reader.ids == await event_ids(redis, claim.keys)

    async def test_a_killed_subscriber_connection_is_not_noticed_by_readers(
        self, hand: Hand, redis: Redis, read: StartReader
    ) -> None:
        claim = await in_mid_stream(hand)
        readers = [read(claim.keys) for _ in range(5)]
        for n in range(4, 24):
            if n % 5 == 0:
                await redis.client_kill_filter(_type="pubsub")
            await hand.append(claim, chunk(1, n))
        await hand.complete(claim, "x" * 23, Cursor(1, 24))
        for reader in readers:
            await reader.end()
            assert reader.ids == await event_ids(redis, claim.keys)


class TestConnections:
    async def test_200_tails_share_one_and_leave_nothing_behind(
        self, hand: Hand, redis: Redis, live: Lossy, read: StartReader
    ) -> None:
        claims = [await in_mid_stream(hand) for _ in range(20)]
        readers = [read(claim.keys) for claim in claims for _ in range(10)]
        await wait_until("all to have read", lambda: all(len(r.seen) == 5 for r in readers))
        assert len(await redis.client_list(_type="pubsub")) == 1

        async def few() -> bool:  # those that a busy server has not closed yet still count
            return len(await redis.client_list()) <= 1 + 1 + 16

        await wait_until("the connections to be hand, subscriber and the pool", few)
        for reader in readers[::2]:
            await reader.leave()
        for claim in claims:
            await hand.complete(claim, "xxx", Cursor(1, 4))
        for reader in readers[1::2]:
            await reader.end()
        channels = [claim.keys.live for claim in claims]
        await wait_until("nobody to listen", lambda: silent(redis, *channels))
        assert live._channels == {}

    @pytest.mark.parametrize("after", [START, Cursor(1, 2)])
    async def test_leaving_at_any_await_leaves_no_subscription(
        self, hand: Hand, redis: Redis, live: Lossy, read: StartReader, after: Cursor
    ) -> None:
        claim = await in_mid_stream(hand)
        stages = set()
        for steps in range(60):
            reader = read(claim.keys, after)
            for _ in range(steps):
                await asyncio.sleep(0)
            if steps > 40:  # the server needs a moment, however many steps we take
                await asyncio.sleep(0.001 * (steps - 40))
            stages.add(len(reader.seen))
            await reader.leave()
            assert live._channels == {}
        await wait_until("nobody to listen", lambda: silent(redis, claim.keys.live))
        assert len(stages) > 1, "some left before the first event, some after"


async def _reads(redis: Redis) -> int:
    return int((await redis.info("commandstats")).get("cmdstat_xrange", {"calls": 0})["calls"])


def _mail(live: Lossy, keys: JobKeys) -> bool:
    (sink,) = live._channels[keys.live.encode()].sinks
    return bool(sink._messages)  # type: ignore[attr-defined]
