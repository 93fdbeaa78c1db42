"""Redis connections, where redis-py's own would not do."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from redis.asyncio import Redis

from darkq import ConfigurationError, Settings
from darkq.connection import pool


async def test_no_cancellation_is_swallowed_at_any_step(settings: Settings, redis: Redis) -> None:
    """Red on Python 3.11 with redis-py's own connection classes."""
    ours = Redis.from_pool(pool(settings))
    await ours.ping()
    cancelled = 0
    for steps in [*range(12)] * 20:
        call = asyncio.create_task(ping(ours))
        for _ in range(steps):
            await asyncio.sleep(0)
        if call.cancel():
            with pytest.raises(asyncio.CancelledError):
                await call
            cancelled += 1
    assert cancelled > 20
    assert await ours.ping(), "the pool is as good as before"
    await ours.aclose()
    await ours.connection_pool.aclose()


async def ping(redis: Redis) -> None:
    assert await redis.ping()


@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@host",
        "redis://:hunter2@host?db=zero",
        "redis://:hunter2@host?no_such=1",
        "redis://:hunter2/x@host",
        "redis://:hunter2#x@host",
        "",
    ],
)
def test_a_wrong_url_names_the_setting_and_not_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DARKQ_REDIS_URL") as caught:
        pool(Settings(_env_file=None, redis_url=url))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
