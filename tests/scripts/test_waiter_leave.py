"""`waiter_leave.lua`: the last caller of a job leaves for good."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys
from darkq.redis import scripts

KEYS = JobKeys(0, "a" * 32)


async def test_the_last_one_is_told_so(redis: Redis) -> None:
    for caller in ("a", "b"):
        await scripts.waiter_keep(redis, KEYS, caller, lease_s=60, ttl_s=100)
    assert not await scripts.waiter_leave(redis, KEYS, "a", ttl_s=100)
    assert await scripts.waiter_leave(redis, KEYS, "b", ttl_s=100)
    assert 90_000 < await redis.pttl(KEYS.waiters) <= 100_000


@pytest.mark.parametrize("times", [1, 2])
async def test_a_caller_whose_lease_is_over_does_not_count(redis: Redis, times: int) -> None:
    """Sent twice the reply is the same."""
    await scripts.waiter_keep(redis, KEYS, "dead", lease_s=-1, ttl_s=100)
    for _ in range(times):
        assert await scripts.waiter_leave(redis, KEYS, "a", ttl_s=100)
