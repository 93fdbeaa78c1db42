"""Readers that come while a job waits for its next attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from darkq import Client
from darkq.event import Chunk, Cursor, Retrying, Started
from darkq_worker.leases import Claim
from support.by_hand import Hand, chunk, heard, started
from support.waiting import wait_until

from .scenes import Listener, all_of, write


async def _refused_at_once(hand: Hand) -> Claim:
    """The first attempt ended before its first word."""
    claim = await hand.take()
    return await _ended(hand, claim, 1, started(1))


async def _never_started(hand: Hand) -> Claim:
    """The first attempt ended before an upstream was chosen."""
    return await _ended(hand, await hand.take(), 0)


async def _cut_off(hand: Hand) -> Claim:
    """The first attempt ended in the middle of its text."""
    claim = await hand.take()
    return await _ended(hand, claim, 2, started(1), chunk(1, 1, "void"))


async def _lost(hand: Hand) -> Claim:
    """The first attempt's worker was lost in the middle of the text: nothing says so in the log."""
    claim = await hand.take()
    await write(hand, claim, "void", "text")
    assert await hand.release(claim, delay_ms=0) == 1
    return claim


async def _put_off(hand: Hand) -> Claim:
    """Attempts that were put off for a limit have numbers and no events."""
    claim = await hand.take()
    for _ in range(3):
        assert await hand.release(claim, delay_ms=0) == 1
        claim = await hand.claim_one()
    assert await hand.release(claim, delay_ms=0) == 1
    return claim


async def _ended(hand: Hand, claim: Claim, seq: int, *events: Started | Chunk) -> Claim:
    assert await hand.append(claim, *events) == []
    retrying = Retrying(id=f"1-{seq}", attempt=1, reason="r", retry_in_s=9, at_ms=1)
    assert await hand.release(claim, retrying, delay_ms=0) == 1
    return claim


Scene = Callable[[Hand], Awaitable[Claim]]
SCENES = (_refused_at_once, _never_started, _cut_off, _lost, _put_off)


async def _run_again(hand: Hand) -> None:
    claim = await hand.claim_one()
    await write(hand, claim, "new ", "text")
    await hand.complete(claim, "new text", Cursor(claim.attempt, 3))


@pytest.mark.parametrize("scene", SCENES)
async def test_text_waits_for_the_next_attempt(hand: Hand, client: Client, scene: Scene) -> None:
    """Red when the text of an attempt that has ended is given out, or its place is refused."""
    claim = await scene(hand)
    listener = Listener(client.job(claim.keys.public_id).text())
    await wait_until("a reader", lambda: heard(hand.redis, claim.keys.live))
    await _run_again(hand)
    await listener.task
    assert listener.text == "new text"


@pytest.mark.parametrize("scene", SCENES)
async def test_events_of_the_latest_attempt_alone(hand: Hand, client: Client, scene: Scene) -> None:
    """Red when `latest_attempt` names a place that no event has."""
    claim = await scene(hand)
    job = client.job(claim.keys.public_id)
    after = await job.latest_attempt()
    await _run_again(hand)
    seen = [event async for event in job.events(after)]
    assert [event.text for event in seen if isinstance(event, Chunk)] == ["new ", "text"]
    waits = [event for event in seen if isinstance(event, Retrying)]
    assert len(waits) == (scene not in (_lost, _put_off))
    places = {"0-0", *[event.id async for event in job.events()]}
    assert after in places


async def test_the_latest_attempt_of_a_job_that_runs(hand: Hand, client: Client) -> None:
    claim = await _cut_off(hand)
    claim = await hand.claim_one()
    await write(hand, claim, "new")
    job = client.job(claim.keys.public_id)
    assert await job.latest_attempt() == "1-2"
    await hand.complete(claim, "new", Cursor(2, 2))
    assert await job.latest_attempt() == "1-2"
    assert await all_of(job.text()) == "new"


async def test_the_latest_attempt_of_a_job_that_has_not_begun(client: Client) -> None:
    assert await (await client.enqueue("hi")).latest_attempt() == "0-0"
