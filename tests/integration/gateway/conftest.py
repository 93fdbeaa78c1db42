"""Fixtures: gateways that listen on loopback, and callers of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from darkq import Client, Settings
from darkq_gateway.serve import gateway
from darkq_local.local_darkai import LocalDarkAI
from support.http_api import Api

StartGateway = Callable[..., Awaitable[Api]]
MakeKey = Callable[..., Awaitable[str]]
Working = Callable[..., Awaitable[LocalDarkAI]]


@pytest.fixture
async def start_gateway(make_settings: Callable[..., Settings]) -> AsyncIterator[StartGateway]:
    """Start a gateway in this process, on a free port, and return a caller without a key."""
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> Api:
            changes = {"gateway_port": 0, "gateway_drain_s": 2.0, **changes}
            url = await stack.enter_async_context(gateway(make_settings(**changes)))
            return await stack.enter_async_context(Api(url))

        yield start


@pytest.fixture
async def api(start_gateway: StartGateway) -> Api:
    """A caller of a gateway that has no keys."""
    return await start_gateway()


@pytest.fixture
async def make_key(client: Client) -> MakeKey:
    """Make an API key."""

    async def make(name: str = "alice", **limits: Any) -> str:
        _, secret = await client.api_keys.create(name, **limits)
        return secret

    return make


@pytest.fixture
async def working(
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> Working:
    """Start a worker with a local DarkAI."""

    async def start(
        *plan: Any, job_tries: int = 3, results_keep_prompts: bool = False, **options: Any
    ) -> LocalDarkAI:
        darkai = await start_darkai(*plan, **options)
        settings = make_settings(
            darkai_url=darkai.url,
            retry_base_s=0.01,
            job_tries=job_tries,
            results_keep_prompts=results_keep_prompts,
        )
        start_worker(settings)
        return darkai

    return start
