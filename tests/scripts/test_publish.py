"""`publish.lua`: a message for the subscribers of this moment."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.operate.queue_state import clear_mark, set_mark
from darkq.redis import scripts
from support.by_hand import Ear


async def test_a_message_reaches_the_subscribers_of_its_channel_alone(redis: Redis) -> None:
    async with Ear(redis, "darkq:{0}:wake", "darkq:{1}:wake") as ear:
        await scripts.publish(redis, "darkq:{0}:wake", "jobs")
        assert await ear.heard() == [("darkq:{0}:wake", b"jobs")]


async def test_resuming_wakes_the_workers_of_every_partition(redis: Redis) -> None:
    await set_mark(redis, "paused", "bulk", 2, by="me", why="a test")
    async with Ear(redis, "darkq:{0}:wake", "darkq:{1}:wake") as ear:
        await clear_mark(redis, "paused", "bulk", 2)
        assert sorted(await ear.heard()) == [
            ("darkq:{0}:wake", b"jobs"),
            ("darkq:{1}:wake", b"jobs"),
        ]
