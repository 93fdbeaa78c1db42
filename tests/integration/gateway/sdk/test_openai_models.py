"""Models, by OpenAI's own SDK."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import openai
import pytest
from openai import AsyncOpenAI

from darkq import Client
from darkq_local.local_darkai import LocalDarkAI
from support.http_api import Api
from support.waiting import wait_until

Working = Callable[..., Awaitable[LocalDarkAI]]


async def announced(client: Client) -> bool:
    return bool(await client.upstreams())


async def test_the_models_are_what_live_workers_serve(
    sdk: AsyncOpenAI, client: Client, working: Working
) -> None:
    assert [model.id async for model in sdk.models.list()] == []
    await working()
    await wait_until("the worker tells what it serves", lambda: announced(client))
    models = [model async for model in sdk.models.list()]
    assert "llama-3-70b" in [model.id for model in models]
    assert {model.owned_by for model in models} == {"darkai"}
    assert await sdk.models.retrieve("llama-3-70b") in models
    for unknown in ("gpt-17", "org/model"):
        with pytest.raises(openai.NotFoundError) as refused:
            await sdk.models.retrieve(unknown)
        assert refused.value.code == "model_not_found"


async def test_a_key_sees_the_models_that_it_may_use(
    api: Api, client: Client, working: Working, make_key: Callable[..., Awaitable[str]]
) -> None:
    await working()
    await wait_until("the worker tells what it serves", lambda: announced(client))
    key = await make_key(models=["gpt-4o", "elsewhere"])
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=0) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["gpt-4o"]
        with pytest.raises(openai.NotFoundError):
            await sdk.models.retrieve("llama-3-70b")
        with pytest.raises(openai.PermissionDeniedError):
            await sdk.responses.create(model="llama-3-70b", input="Hi")
