"""Redis connections, where redis-py's own would not do."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from redis.asyncio import Redis

from darkq import Client, ConfigurationError, Settings
from darkq.redis.pool import pool
from support.servers import Server


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
        "redis://:hunter2@host?retry=1",
        "rediss://:hunter2@host?ssl_cert_reqs=hunter2",
        "rediss://:hunter2@host?ssl_ca_certs=/no/such/hunter2",
        "redis://:pass?hunter2=x@host",
        "redis://:123?hunter2=x@host",
        "",
    ],
)
def test_a_wrong_url_names_the_setting_and_not_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DARKQ_REDIS_URL") as caught:
        pool(Settings(_env_file=None, redis_url=url))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "more",
    [
        "?max_connections=20",
        "?socket_timeout=5&socket_connect_timeout=3&health_check_interval=30",
        "?decode_responses=True&ssl=false",
        "?protocol=3&retry_on_timeout=true&client_name=x",
        "\n",
    ],
)
async def test_a_url_that_others_share_reaches_the_server(
    redis_server: Server, redis: Redis, more: str
) -> None:
    """Red when an option has two masters: "multiple values for keyword argument"."""
    url = redis_server.url + (more if "?" not in redis_server.url else more.replace("?", "&"))
    async with Client(url, settings=Settings(_env_file=None)) as client:
        job = await client.enqueue("hi")
        assert (await job.status()).state == "queued"


def test_an_option_that_nobody_knows_is_named() -> None:
    with pytest.raises(ConfigurationError, match="an unknown option: no_such"):
        pool(Settings(_env_file=None, redis_url="redis://h?no_such=1"))
