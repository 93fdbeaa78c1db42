"""Producers that never stop leave memory for what is in progress: jobs go on, and free it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from darkq import Client, RedisFull, Settings
from darkq.protocol.keys import PartitionKeys
from darkq_local.local_darkai import LocalDarkAI
from support.servers import Server, binaries, running
from support.waiting import wait_until

MAXMEMORY = 24 << 20
PROMPT = "x" * 200_000
PRODUCERS = 3


@pytest.fixture(scope="module", params=sorted(binaries()))
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose memory this module limits."""
    with running(binaries()[request.param]) as server:
        yield server


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_server.url)
    await client.flushall()
    await client.config_set("maxmemory", MAXMEMORY)
    yield client
    await client.config_set("maxmemory", 0)
    await client.flushall()
    await client.aclose()


class Producers:
    """Some that put in jobs as fast as they can, and never give up."""

    def __init__(self, client: Client) -> None:
        self.ids: list[str] = []
        self.refused = 0
        self._client = client

    async def produce(self) -> None:
        while True:
            try:
                self.ids.append((await self._client.enqueue(PROMPT)).id)
            except RedisFull:
                self.refused += 1
                await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_jobs_complete_while_producers_never_stop(
    redis: Redis,
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when enqueue.lua takes all memory there is: no job is ever claimed."""
    darkai = await start_darkai(chunks=3, chunks_per_s=20)
    producers, most = Producers(client), 0

    async def watch() -> None:
        nonlocal most
        while True:
            memory = await redis.info("memory")
            # What calls carry that have not been run yet is no data: three prompts are 600 KB.
            most = max(most, memory["used_memory"] - memory["mem_clients_normal"])
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(producers.produce()) for _ in range(PRODUCERS)]
    tasks.append(asyncio.create_task(watch()))
    try:
        await wait_until("Redis to be full", lambda: producers.refused > 10)
        full = len(producers.ids)
        start_worker(make_settings(darkai_url=darkai.url, worker_jobs=20))
        await wait_until("more jobs to run than fit", lambda: darkai.requests_seen > 2 * full, 40)
        refused = producers.refused
        await wait_until("producers to be refused still", lambda: producers.refused > refused)
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    for job_id in producers.ids[:full]:
        assert (await client.job(job_id).result(timeout_s=20)).text
    assert most < MAXMEMORY
    assert "OutOfMemory" not in caplog.text


async def test_jobs_that_were_stored_before_it_was_full_are_named(
    redis: Redis, client: Client
) -> None:
    """Red when `RedisFull` of a second call forgets those of the first."""
    jobs = ["small"] * 500 + [PROMPT] * 150
    with pytest.raises(RedisFull) as caught:
        await client.enqueue_many(jobs)
    stored_ids = caught.value.stored_ids
    assert 500 < len(stored_ids) == await redis.zcard(PartitionKeys(0).queue("interactive"))
    assert f"{len(stored_ids)} jobs were stored" in str(caught.value)
    for job_id in (stored_ids[0], stored_ids[-1]):
        assert (await client.job(job_id).status()).state == "queued"
