"""`append.lua`: the event log's id is the fence."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq import event as ev
from darkq.redis import scripts
from support.by_hand import Ear, Hand, chunk, entries, event_ids, snapshot, started
from support.waiting import wait_until


async def test_events_are_logged_and_published_in_order(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    events: list[ev.AnyEvent] = [started(1), chunk(1, 1, "a"), chunk(1, 2, "ü \U0001f600")]
    async with Ear(redis, claim.keys.live) as ear:
        assert await hand.append(claim, *events) == []
        heard = await ear.heard()
    assert heard == [(claim.keys.live, ev.encode(event)) for event in events]
    logged = await redis.xrange(claim.keys.events, "1-0")
    assert [fields for _, fields in logged] == [{b"e": ev.encode(event)} for event in events]
    assert await event_ids(redis, claim.keys) == ["0-1", "1-0", "1-1", "1-2"]


async def test_a_superseded_attempt_writes_and_publishes_nothing(redis: Redis) -> None:
    """Red without `refusing = events` in append.lua, and with its PUBLISH before the check."""
    zombie, heir = Hand(redis, "zombie", lease_s=0.3), Hand(redis, "heir")
    old = await zombie.take()
    await zombie.append(old, started(1), chunk(1, 1))
    (new,) = await wait_until("the lease to run out", heir.claim)
    assert await heir.append(new, started(2)) == []
    before = await snapshot(redis)
    async with Ear(redis, old.keys.live) as ear:
        assert await zombie.append(old, chunk(1, 2), chunk(1, 3)) == [0, 1]
        assert await ear.heard() == []
    assert await snapshot(redis) == before


async def test_once_one_event_is_refused_the_rest_of_that_log_is_too(
    redis: Redis, hand: Hand
) -> None:
    """Red without `events ~= refusing` in append.lua: a hole would open in the log."""
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1), chunk(1, 2))
    async with Ear(redis, claim.keys.live) as ear:
        assert await hand.append(claim, chunk(1, 2), chunk(1, 3), chunk(1, 4)) == [0, 1, 2]
        assert await ear.heard() == []
    assert await event_ids(redis, claim.keys) == ["0-1", "1-0", "1-1", "1-2"]


async def test_each_log_of_a_call_stands_alone(redis: Redis, hand: Hand) -> None:
    one, two, three = [await hand.take() for _ in range(3)]
    await redis.xadd(two.keys.events, {"e": ev.encode(started(2))}, id="2-0")
    events = entries([started(1), chunk(1, 1)])
    logs = [(claim.keys, events) for claim in (one, two, three)]
    async with Ear(redis, one.keys.live, two.keys.live, three.keys.live) as ear:
        refused = await scripts.append(redis, logs)
        assert refused == [2, 3]
        assert scripts.append_accepted(refused, logs) == [True, False, True]
        channels = [channel for channel, _ in await ear.heard()]
    assert channels == [one.keys.live] * 2 + [three.keys.live] * 2
    assert await event_ids(redis, one.keys) == ["0-1", "1-0", "1-1"]
    assert await event_ids(redis, two.keys) == ["0-1", "2-0"]
    assert await event_ids(redis, three.keys) == ["0-1", "1-0", "1-1"]


async def test_a_log_that_is_gone_is_not_made_anew(redis: Redis, hand: Hand) -> None:
    """Red without NOMKSTREAM: the new log would never expire."""
    claim = await hand.take()
    await redis.delete(claim.keys.events)
    async with Ear(redis, claim.keys.live) as ear:
        assert await hand.append(claim, started(1), chunk(1, 1)) == [0, 1]
        assert await ear.heard() == []
    assert await redis.exists(claim.keys.events) == 0


async def test_appending_keeps_the_time_to_live(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await redis.pexpire(claim.keys.events, 5000)
    await hand.append(claim, started(1))
    assert 0 < await redis.pttl(claim.keys.events) <= 5000


async def test_nothing_to_append(redis: Redis) -> None:
    assert await scripts.append(redis, []) == []


async def test_an_attempt_that_was_not_given_out_here_begins_nothing(
    redis: Redis, hand: Hand
) -> None:
    """Its claim was of a server that another has replaced. Red without `may_begin`: in a log that
    has ended its readers would wait for ever."""
    claim = await hand.take()
    await redis.delete(claim.keys.retry)
    assert await hand.append(claim, started(1), chunk(1, 1)) == [0, 1]
    await redis.set(claim.keys.retry, 2, ex=60)
    assert await hand.append(claim, started(1)) == [0]
    assert await event_ids(redis, claim.keys) == ["0-1"]


async def test_a_log_that_becomes_something_else_refuses_its_own_events_alone(
    redis: Redis, hand: Hand
) -> None:
    """Red when `append.lua` ends at such an error: no job of the worker could write any more."""
    spoilt, good = await hand.take(), await hand.take()
    await redis.set(spoilt.keys.events, "x", px=60_000)
    events = entries([started(1)])
    assert await scripts.append(redis, [(spoilt.keys, events), (good.keys, events)]) == [0]
