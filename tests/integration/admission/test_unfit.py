"""No worker starts on a Redis that would evict jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest
from redis.asyncio import Redis

from darkq import ConfigurationError, Settings
from darkq_worker.main import run_worker
from support.processes import WorkerProcess
from support.servers import Server, binaries, running
from support.waiting import wait_until


@pytest.fixture(scope="module", params=sorted(binaries()))
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose memory this module may limit."""
    with running(binaries()[request.param]) as server:
        yield server


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "volatile-lfu"])
async def test_it_refuses_and_names_the_policy(
    redis: Redis, settings: Settings, policy: str
) -> None:
    await redis.config_set("maxmemory", 100 << 20)
    await redis.config_set("maxmemory-policy", policy)
    with pytest.raises(ConfigurationError, match=rf"maxmemory-policy is {policy}.*noeviction"):
        async with asyncio.timeout(10):
            await run_worker(settings, handle_signals=False)


@pytest.mark.parametrize(
    ("maxmemory", "policy"), [(100 << 20, "noeviction"), (0, "allkeys-lru"), (0, "noeviction")]
)
async def test_it_starts_where_nothing_is_evicted(
    redis: Redis,
    settings: Settings,
    start_worker: Callable[[Settings], asyncio.Task[None]],
    caplog: pytest.LogCaptureFixture,
    maxmemory: int,
    policy: str,
) -> None:
    caplog.set_level(logging.INFO)
    await redis.config_set("maxmemory", maxmemory)
    await redis.config_set("maxmemory-policy", policy)
    worker = start_worker(settings)
    await wait_until("the worker", lambda: "worker ready" in caplog.text or worker.done())
    assert not worker.done()
    await redis.config_set("maxmemory", 0)


async def test_where_it_may_not_ask_it_says_so_and_starts(
    redis: Redis,
    redis_server: Server,
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    await redis.execute_command(
        "ACL", "SETUSER", "blind", "on", ">secret", "~*", "&*", "+@all", "-info"
    )
    try:
        url = f"unix://blind:secret@{redis_server.socket}"
        start_worker(make_settings(redis_url=url))
        await wait_until("the worker", lambda: "worker ready" in caplog.text)
        assert "cannot check the maxmemory-policy of Redis error=NoPermissionError" in caplog.text
    finally:
        await redis.execute_command("ACL", "DELUSER", "blind")


async def test_the_process_ends_with_the_reason(
    redis: Redis, settings: Settings, start_process: Callable[[Settings], WorkerProcess]
) -> None:
    await redis.config_set("maxmemory", 100 << 20)
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    worker = start_process(settings)
    assert await worker.wait() == 1
    assert "maxmemory-policy is allkeys-lru" in worker.log.read_text()
    await redis.config_set("maxmemory", 0)
