"""What has lapsed is removed in bounded steps: a million at once would hold everybody up."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq import Client
from darkq.protocol.keys import PartitionKeys, api_key_use

LAPSED = {f"old {n}": n for n in range(2500)}


async def test_a_call_of_a_key_removes_a_thousand_lapsed_ones(client: Client, redis: Redis) -> None:
    """Red with ZREMRANGEBYSCORE; and with ZCARD, by which the lapsed ones take the places."""
    key, _ = await client.api_keys.create("k", concurrency=2)
    calls = api_key_use(key.id)[1]
    await redis.zadd(calls, LAPSED)
    verdicts, left = list[str](), list[int]()
    for call in ("old 2499", "first", "second", "third"):
        verdicts.append((await client.api_keys.enter(key, call, lease_s=30)).outcome)
        left.append(await redis.zcard(calls))
    assert verdicts == ["entered", "entered", "places", "places"]
    assert left == [1500, 501, 2, 2]


async def test_a_batchs_lease_removes_a_thousand_expired_batches(
    client: Client, redis: Redis
) -> None:
    """Red with ZREMRANGEBYSCORE."""
    await redis.zadd(PartitionKeys(0).batches, LAPSED)
    left: list[int] = []
    for _ in range(3):
        async with client.batch():
            left.append(await redis.zcard(PartitionKeys(0).batches))
    assert left == [1501, 2, 3]  # giving the lease up is a call, too
