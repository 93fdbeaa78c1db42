"""A Redis that has reached its maxmemory: producers are told, workers wait and go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, JobHandle, RedisFull, RedisUnavailable, Settings
from darkq.event import Completed, Started
from darkq_local.local_darkai import LocalDarkAI
from support.by_hand import snapshot
from support.leaks import keys_without_ttl
from support.servers import Server, binaries, running
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]


@pytest.fixture(scope="module", params=sorted(binaries()))
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose memory this module may limit."""
    with running(binaries()[request.param]) as server:
        yield server


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_server.url)
    await client.flushall()
    yield client
    await client.config_set("maxmemory", 0)
    assert not await keys_without_ttl(client)
    await client.aclose()


async def test_a_producer_is_told_by_name_and_nothing_is_stored(
    client: Client, redis: Redis
) -> None:
    """Red when the first write of `enqueue.lua` is one that a full Redis lets pass."""
    await client.enqueue("before")
    before = await snapshot(redis)
    await redis.config_set("maxmemory", 1)
    for call in (client.enqueue("the prompt"), client.enqueue_many(["the prompt", "another"])):
        with pytest.raises(RedisFull, match="maxmemory") as caught:
            await call
        assert isinstance(caught.value, RedisUnavailable)
        assert "the prompt" not in str(caught.value)
    await redis.config_set("maxmemory", 0)
    assert await snapshot(redis) == before
    assert (await client.enqueue("after")).id


async def test_a_worker_keeps_what_it_has_and_goes_on(
    client: Client,
    redis: Redis,
    start_darkai: StartDarkAI,
    start_worker: Callable[[Settings], Any],
    make_settings: Callable[..., Settings],
) -> None:
    """Also past the end of its lease: nobody else could claim the job either."""
    darkai = await start_darkai(chunks=20, chunks_per_s=40)
    start_worker(make_settings(darkai_url=darkai.url, worker_lease_s=1))
    job = await client.enqueue("while it is full")
    await wait_until("the first chunks", lambda: has_text(job))
    await redis.config_set("maxmemory", 1)
    await wait_until("the lease to run out", lambda: lease_is_over(redis))
    assert not await redis.keys("arq:result:*")
    await redis.config_set("maxmemory", 0)
    result = await job.result(timeout_s=10)
    events = [event async for event in job.events()]
    assert isinstance(events[-1], Completed)
    assert [event.attempt for event in events if isinstance(event, Started)] == [1]
    assert result.chunks == 20
    assert darkai.requests_seen == 1
    assert (await (await client.enqueue("and the next")).result(timeout_s=10)).text


async def has_text(job: JobHandle) -> bool:
    async with asyncio.timeout(5):
        async for _ in job.text():
            return True
    return False


async def lease_is_over(redis: Redis) -> bool:
    return not await redis.keys("arq:in-progress:*")
