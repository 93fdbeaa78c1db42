"""`batch_acknowledge.lua`: ends of a batch are taken over."""

# mypy: disable-error-code="misc"

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from darkq.protocol.keys import BatchKeys
from darkq.redis import scripts
from darkq.redis.scripts import Acknowledged, PageEnd
from support.batches_by_hand import RUNNER, TTL_MS, end_lines, make_batch
from support.by_hand import snapshot


async def acknowledge(
    redis: Redis,
    keys: BatchKeys,
    ends: Sequence[PageEnd],
    *,
    first: int = 1,
    token: str = RUNNER,
    part: str = "",
) -> Acknowledged:
    return await scripts.batch_acknowledge(
        redis,
        keys,
        token,
        ends,
        first=first,
        lease_ms=30_000,
        ttl_ms=TTL_MS,
        kept_ends=100,
        part=part,
        part_ttl_s=60,
    )


async def test_what_was_kept_for_it_goes(redis: Redis) -> None:
    keys = await make_batch(redis)
    plain, kept, expired = await end_lines(redis, keys, 1, 2, 3)
    page = [plain, kept._replace(keep=True), expired._replace(expired=True)]
    assert await acknowledge(redis, keys, page) == (3, None)
    results = [keys.job(n).result for n in (1, 2, 3)]
    assert [await redis.exists(name) for name in results] == [0, 1, 0]
    bits = [await redis.execute_command("GETBIT", keys.acknowledged, n) for n in (1, 2, 3)]
    assert bits == [1, 1, 0]
    assert await redis.zrange(keys.lines, 0, -1, withscores=True) == [(b"3", 0)]
    assert await redis.hmget(keys.batch, ["acknowledged", "completed"]) == [b"3", b"2"]


async def test_sent_twice_it_counts_once(redis: Redis) -> None:
    keys = await make_batch(redis)
    ends = await end_lines(redis, keys, 1, 2)
    for _ in range(2):
        assert (await acknowledge(redis, keys, ends)).ends == 2
    assert await redis.hget(keys.batch, "acknowledged") == b"2"


async def test_it_stops_at_the_first_end_that_is_another(redis: Redis) -> None:
    """Red without the comparison of stamps: an end after a roll-back would be lost."""
    keys = await make_batch(redis)
    first, second = await end_lines(redis, keys, 1, 2)
    assert (await acknowledge(redis, keys, [first, second._replace(stamp="1")])).ends == 1
    assert await redis.zcard(keys.lines) == 1


async def test_a_part_counts_with_all_of_its_ends_or_not_at_all(redis: Redis) -> None:
    keys = await make_batch(redis)
    first, second = await end_lines(redis, keys, 1, 2)
    page = [first, second._replace(stamp="1")]
    assert (await acknowledge(redis, keys, page, part="1-runner")).ends == 0
    assert not await redis.exists(keys.parts)
    assert (await acknowledge(redis, keys, [first, second], part="1-runner")).ends == 2
    assert await redis.zrange(keys.parts, 0, -1, withscores=True) == [(b"1-runner", 1)]


async def test_another_process_changes_nothing(redis: Redis) -> None:
    keys = await make_batch(redis)
    ends = await end_lines(redis, keys, 1)
    before = await snapshot(redis)
    assert await acknowledge(redis, keys, ends, token="other") == (None, RUNNER)
    assert await snapshot(redis) == before
    assert await acknowledge(redis, BatchKeys.new(0), ends) == (None, None)
