"""`batch_renew_lease.lua`: one process at a time runs a batch."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import BatchKeys, PartitionKeys
from darkq.redis import scripts
from support.batches_by_hand import RUNNER, TTL_MS, make_batch
from support.by_hand import snapshot


async def renew(
    redis: Redis, keys: BatchKeys, token: str, *, lease_ms: int = 30_000
) -> scripts.LeaseReply:
    return await scripts.batch_renew_lease(redis, keys, token, lease_ms=lease_ms, ttl_ms=TTL_MS)


async def test_a_batch_is_made_once_and_is_listed(redis: Redis) -> None:
    keys = await make_batch(redis)
    await renew(redis, keys, RUNNER)
    assert await redis.zrange(PartitionKeys(0).batches, 0, -1) == [keys.arq_id.encode()]
    assert await redis.get(keys.runner) == RUNNER.encode()
    assert 20_000 < await redis.pttl(keys.runner) <= 30_000
    for name in (keys.batch, PartitionKeys(0).batches):
        assert 50_000 < await redis.pttl(name) <= 60_000, name


async def test_another_process_is_told_who_runs_it(redis: Redis) -> None:
    keys = await make_batch(redis)
    before = await snapshot(redis)
    assert await renew(redis, keys, "other") == ("taken", RUNNER)
    assert await snapshot(redis) == before


async def test_a_lease_that_is_given_up_is_free(redis: Redis) -> None:
    keys = await make_batch(redis)
    assert await renew(redis, keys, RUNNER, lease_ms=0) == ("ours", RUNNER)
    assert not await redis.exists(keys.runner)
    assert await renew(redis, keys, "other") == ("ours", "other")


async def test_a_batch_that_is_gone_is_not_made_by_a_renewal(redis: Redis) -> None:
    assert (await renew(redis, BatchKeys.new(0), RUNNER)).outcome == "gone"
    assert await redis.keys() == []
