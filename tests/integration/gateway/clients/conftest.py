"""Fixtures: darkq in front of a real model and of a scripted upstream."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from darkq import Settings
from support.http_api import Api
from support.llama_cpp import llama_cpp
from support.scripted_upstream import scripted_upstream

KEY = secrets.token_hex(8)


@pytest.fixture(scope="session")
def llama_url() -> Iterator[str]:
    with llama_cpp(KEY, context_tokens=4096) as url:
        yield url


@pytest.fixture
async def base_url(
    llama_url: str,
    start_gateway: Callable[..., Awaitable[Api]],
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> AsyncIterator[str]:
    """The gateway's base URL for clients; a worker has both upstreams."""
    async with scripted_upstream() as scripted:
        upstreams = {
            "llama": {"url": llama_url, "api_key": KEY, "models": "smollm2"},
            "scripted": {"url": scripted.url},
        }
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))
        api = await start_gateway()
        yield f"{api.url}/v1"
