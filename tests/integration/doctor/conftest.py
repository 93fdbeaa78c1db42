"""Fixtures: servers to be configured wrongly, and what the doctor finds on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from redis.asyncio import Redis

from darkq import Settings
from darkq_cli.doctor.checks import CheckResult
from darkq_cli.doctor.examine import SERVER, examine
from darkq_cli.doctor.servers import Server as Patient
from support.servers import Server, binaries, running

Results: TypeAlias = dict[str, CheckResult]


@pytest.fixture(scope="module", params=sorted(binaries()))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this module alone, of each kind."""
    with running(binaries()[request.param]) as server:
        yield server


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Redis]:
    """Its administrator. What a test has configured is taken back."""
    redis = Redis.from_url(server.url)
    await redis.flushall()
    before: dict[str, str] = await redis.config_get("*")
    yield redis
    after: dict[str, str] = await redis.config_get("*")
    for name, value in before.items():
        if after.get(name) != value:
            await redis.config_set(name, value)
    assert await redis.keys() == [], "the doctor changes nothing"
    await redis.aclose()


@pytest.fixture
def make(server: Server, tmp_path: Path) -> Callable[..., Settings]:
    """Make settings from arguments alone, for that server."""

    def make(**changes: Any) -> Settings:
        defaults = {"redis_url": server.url, "state_dir": tmp_path / "state"}
        return Settings(_env_file=None, **{**defaults, **changes})

    return make


async def look(redis: Redis, settings: Settings) -> Results:
    """Run the checks of a server."""
    return {found.check: found async for found in SERVER.run(Patient(redis, settings))}


async def examine_all(settings: Settings, *, call_upstreams: bool = False) -> Results:
    """Run all checks."""
    return {found.check: found async for found in examine(settings, call_upstreams=call_upstreams)}
