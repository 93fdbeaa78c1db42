"""`apikey_enter.lua`: the rate and the places of an API key."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import api_key_use
from darkq.redis import scripts
from darkq.redis.scripts import Entered

RATE, CALLS = api_key_use("key")


async def enter(
    redis: Redis, call_id: str, *, interval_ms: float = 0, burst: int = 0, concurrency: int = 0
) -> Entered:
    return await scripts.apikey_enter(
        redis,
        "key",
        call_id,
        interval_ms=interval_ms,
        burst=burst,
        concurrency=concurrency,
        lease_s=30,
    )


async def test_a_burst_enters_then_each_waits_an_interval(redis: Redis) -> None:
    for n in range(3):
        entered = await enter(redis, f"call {n}", interval_ms=20_000, burst=3)
        assert entered == ("entered", 0)
    outcome, wait_s = await enter(redis, "one more", interval_ms=20_000, burst=3)
    assert outcome == "rate"
    assert 15 < wait_s <= 20
    assert 50_000 < await redis.pttl(RATE) <= 60_000


async def test_as_many_enter_as_there_are_places(redis: Redis) -> None:
    for n in range(2):
        assert (await enter(redis, f"call {n}", concurrency=2)).outcome == "entered"
    assert (await enter(redis, "one more", concurrency=2)).outcome == "places"
    await redis.zrem(CALLS, "call 0")
    assert (await enter(redis, "one more", concurrency=2)).outcome == "entered"


async def test_a_call_that_is_sent_twice_counts_once(redis: Redis) -> None:
    for _ in range(2):
        again = await enter(redis, "call", interval_ms=20_000, burst=1, concurrency=1)
        assert again.outcome == "entered"
    assert await redis.zcard(CALLS) == 1
    assert await redis.pttl(RATE) <= 20_000


async def test_a_refused_call_uses_nothing_up(redis: Redis) -> None:
    await enter(redis, "call", interval_ms=20_000, burst=9, concurrency=1)
    rate = await redis.get(RATE)
    for n in range(3):
        refused = await enter(redis, f"other {n}", interval_ms=20_000, burst=9, concurrency=1)
        assert refused.outcome == "places"
    assert await redis.get(RATE) == rate
