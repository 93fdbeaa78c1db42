"""`worker_count.lua`: what workers have counted, each report once."""

# mypy: disable-error-code="misc"

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis

from darkq.protocol.keys import STATS, WorkerKeys
from darkq.redis import scripts


async def report(redis: Redis, worker_id: str, number: int, increments: Mapping[str, int]) -> None:
    await scripts.worker_count(
        redis,
        worker_id,
        number=number,
        totals_ttl_s=60,
        worker_ttl_s=30,
        buffer_chars=number,
        buffer_most=100,
        increments=increments,
    )


async def test_reports_of_workers_add_up(redis: Redis) -> None:
    await report(redis, "a", 1, {"jobs": 2, "chunks": 10})
    await report(redis, "a", 2, {"jobs": 1})
    await report(redis, "b", 1, {"jobs": 4})
    assert await redis.hgetall(STATS) == {b"jobs": b"7", b"chunks": b"10"}
    own = await redis.hgetall(WorkerKeys("a").stats)
    assert own == {b"report": b"2", b"buffer_chars": b"2", b"buffer_most": b"100"}
    assert 50_000 < await redis.pttl(STATS) <= 60_000
    assert 20_000 < await redis.pttl(WorkerKeys("a").stats) <= 30_000


async def test_a_report_that_is_sent_twice_counts_once(redis: Redis) -> None:
    """Red without `is_new`."""
    for _ in range(2):
        await report(redis, "a", 1, {"jobs": 2})
    assert await redis.hgetall(STATS) == {b"jobs": b"2"}


async def test_a_field_that_is_no_number_does_not_stop_the_others(redis: Redis) -> None:
    """Red with `redis.call`."""
    await redis.hset(STATS, "jobs", "many")
    await report(redis, "a", 1, {"jobs": 2, "chunks": 3})
    assert await redis.hgetall(STATS) == {b"jobs": b"many", b"chunks": b"3"}
