"""Readers of a job that had failed and is run again: every cursor stays good."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from darkq import Settings
from darkq.event import AnyEvent, Cursor, Failed
from darkq.jobs import failed as failures
from darkq.jobs import mailbox
from darkq.jobs import tail as log_pages
from darkq.redis.servers import servers_of
from darkq_worker.leases import Claim
from support.by_hand import Hand, chunk, event_ids, started
from support.servers import Server
from support.waiting import wait_until

from .conftest import Lossy, StartReader
from .test_any_story import READERS, Story, places, steps

DEFAULTS = Settings.model_validate({})


async def failed(hand: Hand) -> Claim:
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1), chunk(1, 2))
    await hand.fail(claim, Cursor(1, 3))
    return claim


async def run_again(hand: Hand, claim: Claim) -> None:
    """The second life of the job, to its end."""
    await failures.retry(hand.redis, claim.keys, DEFAULTS)
    again = await hand.claim_one()
    await hand.append(again, started(3), chunk(3, 1))
    await hand.complete(again, "x", Cursor(3, 2))


@pytest.mark.parametrize("place", range(5))
async def test_from_any_cursor_of_the_first_life(
    hand: Hand, redis: Redis, read: StartReader, place: int
) -> None:
    claim = await failed(hand)
    after = (await event_ids(redis, claim.keys))[place]
    await run_again(hand, claim)
    ids = await event_ids(redis, claim.keys)
    assert ids == ["0-1", "1-0", "1-1", "1-2", "2-0", "3-0", "3-1", "3-2"]
    reader = read(claim.keys, Cursor.parse(after))
    await reader.end()
    assert reader.ids == [name for name in ids if Cursor.parse(name) > Cursor.parse(after)]


async def test_who_comes_late_is_not_told_of_an_end_that_was_taken_back(
    hand: Hand, read: StartReader
) -> None:
    """Red when the `failed` event stays in the log: the reader would stop there."""
    claim = await failed(hand)
    await run_again(hand, claim)
    reader = read(claim.keys)
    await reader.end()
    assert not any(isinstance(event, Failed) for event in reader.seen)
    assert reader.ids[-1] == "3-2"


async def test_who_has_read_the_end_may_come_back(hand: Hand, read: StartReader) -> None:
    claim = await failed(hand)
    reader = read(claim.keys, Cursor(1, 3))
    await reader.end()
    assert reader.ids == [], "the job has ended, so far"
    await failures.retry(hand.redis, claim.keys, DEFAULTS)
    reader = read(claim.keys, Cursor(1, 3))
    await wait_until("the new life", lambda: reader.ids == ["2-0"])
    again = await hand.claim_one()
    await hand.complete(again, "", Cursor(3, 0))
    await reader.end()
    assert reader.ids == ["2-0", "3-0"]


async def test_a_reader_that_was_slow_reads_on_over_the_seam(
    hand: Hand, live: Lossy, read: StartReader, redis: Redis
) -> None:
    """It stands in the first life and is told of nothing until the second has begun."""
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    reader = read(claim.keys)
    await wait_until("the first chunk", lambda: reader.ids[-1:] == ["1-1"])
    live.to_lose = 3  # a chunk, `failed` and `queued`
    await hand.append(claim, chunk(1, 2))
    await hand.fail(claim, Cursor(1, 3))
    await run_again(hand, claim)
    await reader.end()
    assert reader.ids == await event_ids(redis, claim.keys)


async def test_a_reader_that_waits_with_the_job_for_its_second_life(
    hand: Hand, live: Lossy, read: StartReader, redis: Redis
) -> None:
    """Red when `queued` does not end the attempt that the reader knows of."""
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    reader = read(claim.keys)
    await wait_until("the first chunk", lambda: reader.ids[-1:] == ["1-1"])
    live.to_lose = 1  # `failed`
    await hand.fail(claim, Cursor(1, 2))
    await failures.retry(redis, claim.keys, DEFAULTS)
    await wait_until("the second life", lambda: reader.ids[-1:] == ["2-0"])
    again = await hand.claim_one()
    await hand.append(again, started(3), chunk(3, 1))
    await hand.complete(again, "x", Cursor(3, 2))
    await reader.end()
    assert reader.ids == await event_ids(redis, claim.keys)


class TwoLives(Story):
    """A story in which the job may also fail for good, and be run again."""

    async def die(self, pause: int) -> None:
        await self.hand.fail(self.job, Cursor(self.job.attempt, len(self.texts) + 1))
        await self.wait(pause)
        await failures.retry(self.redis, self.job.keys, DEFAULTS)
        await self.wait(pause)
        await self.claim()

    async def end(self, places: list[int], *, has_history: bool) -> tuple[str, list[AnyEvent]]:
        """Those who have read an end that was taken back come again."""
        for number, reader in enumerate(self.readers):
            if reader is not None and any(isinstance(event, Failed) for event in reader.seen):
                await self.join(number, 1000)
        return await super().end(places, has_history=has_history)


lives = st.one_of(steps, st.tuples(st.just("die"), st.integers(0, 3)))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=st.lists(lives, min_size=3, max_size=20), places=places, has_history=st.booleans())
def test_every_reader_has_both_lives(
    redis_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    story: list[tuple[Any, ...]],
    places: list[int],
    *,
    has_history: bool,
) -> None:
    """Red when `revive.lua` leaves `failed` in the log, or begins the log anew."""
    monkeypatch.setattr(mailbox, "MAX_MESSAGES", 4)
    monkeypatch.setattr(log_pages, "PAGE_EVENTS", 5)
    asyncio.run(play(redis_server.url, story, places, has_history=has_history))


async def play(
    url: str, story: list[tuple[Any, ...]], places: list[int], *, has_history: bool
) -> None:
    async with AsyncExitStack() as stack:
        servers = servers_of(Settings.model_validate({"redis_url": url}))
        redis = servers.client()
        stack.push_async_callback(redis.aclose)
        await redis.flushall()
        live = Lossy(servers, patience_s=5)
        stack.push_async_callback(live.aclose)
        tale = TwoLives(redis, live)
        await tale.begin()
        for name, *arguments in story:
            await getattr(tale, name)(*arguments)
        text, log = await tale.end(places, has_history=has_history)
        for number in range(READERS):
            reader = tale.readers[number]
            assert reader is not None
            # Whoever was there saw the ends that were taken back; nothing else differs.
            assert [event for event in reader.seen if not isinstance(event, Failed)] == log
            assert len(set(reader.ids)) == len(reader.ids)
            assert reader.text(tale.job.attempt).encode() == text.encode()
