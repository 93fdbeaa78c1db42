"""A Redis that forgot what it had acknowledged gives an attempt's number twice."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CursorGone
from darkq.event import AnyEvent, Cursor
from darkq.keys import JobKeys
from support.by_hand import Hand, chunk, started
from support.waiting import wait_until
from tail.conftest import Lossy, StartReader


async def _forget_the_attempt(redis: Redis, keys: JobKeys) -> None:
    """Leave the log as it was before the job was claimed."""
    queued = ev.Queued(id="0-1", at_ms=1)
    await redis.delete(keys.events)
    await redis.xadd(keys.events, {b"e": ev.encode(queued)}, "0-1")
    await redis.expire(keys.events, 60)


async def _run_again(hand: Hand, keys: JobKeys) -> None:
    again = ev.Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=2)
    for event in (again, chunk(1, 1, "Two "), chunk(1, 2, "three "), chunk(1, 3, "four")):
        await hand.redis.xadd(keys.events, {b"e": ev.encode(event)}, event.id)
        await hand.redis.publish(keys.live, ev.encode(event))


@pytest.mark.parametrize("all_messages_are_lost", [False, True])
async def test_a_reader_takes_no_second_run_for_the_first(
    hand: Hand, redis: Redis, read: StartReader, live: Lossy, *, all_messages_are_lost: bool
) -> None:
    """Red when `_Reader` does not compare the `started` events: it joins "One " and "three "."""
    claim = await hand.take()
    reader = read(claim.keys)
    await hand.append(claim, started(1), chunk(1, 1, "One "))
    await wait_until("the first words", lambda: reader.text(1) == "One ")
    await _forget_the_attempt(redis, claim.keys)
    live.to_lose = 4 if all_messages_are_lost else 0
    await _run_again(hand, claim.keys)
    await redis.client_kill_filter(_type="pubsub")  # a gap, should nothing have been heard
    with pytest.raises(CursorGone):
        await reader.end()
    assert reader.text(1) == "One "


async def test_a_log_that_its_own_writer_restores_is_read_on(
    hand: Hand, redis: Redis, read: StartReader
) -> None:
    claim = await hand.take()
    reader = read(claim.keys)
    events: list[AnyEvent] = [
        started(1),
        chunk(1, 1, "One "),
        chunk(1, 2, "two "),
        chunk(1, 3, "three"),
    ]
    await hand.append(claim, *events[:2])
    await wait_until("the first words", lambda: reader.text(1) == "One ")
    await _forget_the_attempt(redis, claim.keys)
    await redis.client_kill_filter(_type="pubsub")
    await hand.append(claim, *events)
    await hand.complete(claim, "One two three", Cursor(1, 4))
    await reader.end()
    assert reader.text(1) == "One two three"
