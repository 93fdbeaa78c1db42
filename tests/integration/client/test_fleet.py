"""Everything at one time: what the board and `darkq top` show."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq import Client
from darkq.operate.upstreams import Served, announcement
from darkq.operate.workers import sign_in
from darkq.protocol.keys import WorkerKeys
from support.by_hand import Hand


async def test_a_fleet_is_what_each_reading_says(redis: Redis, client: Client) -> None:
    serves = Served(name="x", kind="openai", default_model="m", models=("m",))
    await sign_in(redis, "host:1:hand", announcement([serves]))
    await redis.set(WorkerKeys("host:1:hand").health, "well", ex=60)
    hand = Hand(redis, "host:1:hand")
    await hand.take()
    await hand.enqueue(priority="bulk")
    fleet = await client.fleet()
    seconds, _ = await redis.time()
    assert abs(fleet.at_ms - seconds * 1000) <= 5000
    assert [(each.waiting, each.running) for each in fleet.queues] == [(0, 1), (1, 0)]
    assert list(fleet.workers) == await client.leases()
    assert list(fleet.upstreams) == await client.upstreams()


async def test_a_fleet_of_nothing(client: Client) -> None:
    fleet = await client.fleet()
    assert [each.running for each in fleet.queues] == [0, 0]
    assert (fleet.workers, fleet.upstreams) == ((), ())
