"""A worker beside the tests of batches, and what is left in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from darkq import Settings
from darkq_local.local_darkai import LocalDarkAI

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], "asyncio.Task[None]"]
MakeSettings = Callable[..., Settings]


@pytest.fixture
async def start(
    make_settings: MakeSettings, start_darkai: StartDarkAI, start_worker: StartWorker
) -> Callable[[], Awaitable[None]]:
    """Start a worker with a local DarkAI."""

    async def start() -> None:
        darkai = await start_darkai(chunks=3)
        start_worker(make_settings(darkai_url=darkai.url, job_tries=1, retry_base_s=0.01))

    return start


@pytest.fixture
async def worker(start: Callable[[], Awaitable[None]]) -> None:
    await start()


@pytest.fixture
def job_keys(redis: Redis) -> Callable[[], Awaitable[list[bytes]]]:
    """Everything that jobs have in Redis."""

    async def job_keys() -> list[bytes]:
        patterns = ("arq:*", "darkq:events:*", "darkq:state:*", "darkq:failed:*")
        return [key for pattern in patterns for key in await redis.keys(pattern)]

    return job_keys
