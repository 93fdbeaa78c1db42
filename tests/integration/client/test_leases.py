"""Which worker holds how many leases; and what a status tells of a job's last attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.event import Chunk
from darkq.operate.workers import sign_in
from darkq.protocol.keys import PartitionKeys
from darkq_worker.leases import Leases
from support.by_hand import Hand

LEASE_S = 15


async def alive(redis: Redis, worker_id: str) -> None:
    await redis.set(f"darkq:{{workers}}:{worker_id}", "alive", ex=60)
    await sign_in(redis, worker_id)


async def test_leases_are_told_by_worker_and_what_is_deferred_has_none(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    async with Client(settings=make_settings(partitions=2)) as client:
        for worker_id in ("host:1:aa", "host:2:bb", "host:3:cc"):
            await alive(redis, worker_id)
        for number in range(20):
            await client.enqueue("x", priority="bulk" if number % 2 else "interactive")
        for worker_id, slots in (("host:1:aa", 2), ("host:2:bb", 1)):
            leases = Leases(redis, worker_id, lease_s=LEASE_S, job_ttl_s=60)
            for partition in (0, 1):
                await leases.claim(partition, slots=slots, bulk_slots=slots)
        later = int((await redis.time())[0]) * 1000 + 60_000
        strange: Any = {"no id": later, "{0}" + "0" * 32: later}
        await redis.zadd(PartitionKeys(0).queue("interactive"), strange)
        of_another_type = "arq:in-progress:{0}" + "0" * 32
        await redis.zadd(of_another_type, {"x": 1})
        await redis.expire(of_another_type, 60)
        now_ms = int((await redis.time())[0]) * 1000
        told = await client.leases()
        assert [(lease.worker, lease.running) for lease in told] == [
            ("host:1:aa", 4),
            ("host:2:bb", 2),
            ("host:3:cc", 0),
        ]
        for lease in told[:2]:
            assert 0 < lease.first_ends_ms - now_ms <= (LEASE_S + 1) * 1000
        assert told[2].first_ends_ms == 0


async def test_a_lease_of_a_worker_that_is_gone_is_nobodys(client: Client, redis: Redis) -> None:
    await client.enqueue("x")
    await Hand(redis).claim()
    assert await client.leases() == []


async def test_a_job_tells_when_its_first_chunk_came(
    client: Client, settings: Settings, start_darkai: Any, start_worker: Any, make_settings: Any
) -> None:
    darkai = await start_darkai(chunks=5)
    start_worker(make_settings(darkai_url=darkai.url))
    job = await client.enqueue("x")
    await job.result(10)
    status = await job.status()
    times = [status.queued_ms, status.started_ms, status.first_chunk_ms, status.finished_ms]
    assert times == sorted(times)
    assert times[0] > 0
    assert status.chunks == 5
    first, *others = [event async for event in job.events() if isinstance(event, Chunk)]
    assert first.at_ms == status.first_chunk_ms
    assert not any(event.at_ms for event in others)
