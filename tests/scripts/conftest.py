"""Every test of a script runs on three backends: the fake one, Valkey and Redis 6.2."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import fakeredis
import pytest
from fakeredis.aioredis import FakeRedis
from redis.asyncio import Redis

from support.by_hand import Hand
from support.leaks import keys_without_ttl
from support.servers import Server, binaries, running


@pytest.fixture(scope="session")
def real_servers() -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(running(path)) for name, path in binaries().items()}


@pytest.fixture(params=["fakeredis", "valkey", "redis62"])
async def redis(
    request: pytest.FixtureRequest, real_servers: dict[str, Server]
) -> AsyncIterator[Redis]:
    """A client of an empty database; afterwards every key left must have a time to live."""
    name: str = request.param
    if name == "fakeredis":
        client: Redis = FakeRedis(server=fakeredis.FakeServer())
    elif name in real_servers:
        client = Redis.from_url(real_servers[name].url)
    else:
        assert not os.environ.get("CI") or sys.version_info >= (3, 13), f"CI must have {name}"
        pytest.skip(f"{name} is not installed")
    await client.flushall()
    yield client
    leaked = await keys_without_ttl(client)
    await client.aclose()
    assert not leaked, f"keys without a time to live: {leaked}"


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)
