"""The places and the rate of an API key, as its gateways take them."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from darkq import ApiKey, Client
from support.waiting import wait_until


async def key_with(client: Client, **limits: float) -> ApiKey:
    key, _ = await client.api_keys.create("k", **limits)  # type: ignore[arg-type]
    return key


async def test_a_dead_gateways_places_come_back(client: Client) -> None:
    key = await key_with(client, concurrency=1)
    assert (await client.api_keys.enter(key, "dead", lease_s=1)).outcome == "entered"
    assert (await client.api_keys.enter(key, "next", lease_s=1)).outcome == "places"

    async def free() -> bool:
        return (await client.api_keys.enter(key, "next", lease_s=5)).outcome == "entered"

    await wait_until("its lease to end", free)


async def test_a_place_is_held_for_as_long_as_it_is_renewed(client: Client) -> None:
    key = await key_with(client, concurrency=1)
    await client.api_keys.enter(key, "long", lease_s=0.5)
    await client.api_keys.renew([(key, "long")], lease_s=30)
    await asyncio.sleep(0.6)  # past its first lease
    assert (await client.api_keys.enter(key, "other", lease_s=5)).outcome == "places"
    await client.api_keys.leave(key, "long")
    assert (await client.api_keys.enter(key, "other", lease_s=5)).outcome == "entered"


async def test_what_has_left_is_not_renewed(client: Client, redis: Redis) -> None:
    key = await key_with(client, concurrency=1)
    await client.api_keys.enter(key, "a", lease_s=5)
    await client.api_keys.leave(key, "a")
    await client.api_keys.renew([(key, "a")], lease_s=5)
    assert not await redis.keys("darkq:use:*")


@pytest.mark.parametrize(("per_s", "burst"), [(0.5, 1), (1, 1), (10, 10), (1000, 1000)])
async def test_a_rate_allows_a_seconds_worth_at_once(
    client: Client, per_s: float, burst: int
) -> None:
    key = await key_with(client, rate_per_s=per_s)
    entries = await asyncio.gather(
        *(client.api_keys.enter(key, str(n), lease_s=5) for n in range(burst + 200))
    )
    entered = sum(entry.outcome == "entered" for entry in entries)
    assert burst <= entered <= burst + 2 * per_s  # it refills while they come
    refused = [entry.wait_s for entry in entries if entry.outcome == "rate"]
    assert all(0 < wait_s <= 200 / per_s for wait_s in refused)
    if refused:
        assert min(refused) <= 1 / per_s + 0.002


async def test_a_slow_rate(client: Client) -> None:
    key = await key_with(client, rate_per_s=0.1)
    assert (await client.api_keys.enter(key, "a", lease_s=5)).outcome == "entered"
    verdict, wait_s = await client.api_keys.enter(key, "b", lease_s=5)
    assert verdict == "rate"
    assert 5 < wait_s <= 10


async def test_a_refused_call_uses_nothing(client: Client) -> None:
    key = await key_with(client, rate_per_s=2, concurrency=1)
    for _ in range(2):
        assert (await client.api_keys.enter(key, "a", lease_s=5)).outcome == "entered"
        await client.api_keys.leave(key, "a")
    waits = [(await client.api_keys.enter(key, "a", lease_s=5)).wait_s for _ in range(20)]
    assert waits == sorted(waits, reverse=True)
