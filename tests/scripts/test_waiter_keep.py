"""`waiter_keep.lua`: callers that wait for a job, each under a lease."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys
from darkq.redis import scripts

KEYS = JobKeys(0, "a" * 32)


async def test_a_caller_has_a_lease_that_a_second_call_renews(redis: Redis) -> None:
    seconds, _ = await redis.time()
    for lease_s in (10, 50):
        assert await scripts.waiter_keep(redis, KEYS, "a", lease_s=lease_s, ttl_s=100)
        end_ms = await redis.zscore(KEYS.waiters, "a")
        assert abs(end_ms - (seconds + lease_s) * 1000) < 5000
    assert await redis.zcard(KEYS.waiters) == 1
    assert 90_000 < await redis.pttl(KEYS.waiters) <= 100_000


async def test_after_the_last_has_left_for_good_no_caller_is_added(redis: Redis) -> None:
    """Red without the member ''. The caller makes another job then."""
    assert await scripts.waiter_leave(redis, KEYS, "a", ttl_s=100)
    assert not await scripts.waiter_keep(redis, KEYS, "b", lease_s=10, ttl_s=100)
    assert await redis.zrange(KEYS.waiters, 0, -1) == [b""]
