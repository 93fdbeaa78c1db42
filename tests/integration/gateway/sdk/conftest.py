"""Fixtures: OpenAI's own SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from support.http_api import Api


@pytest.fixture
async def sdk(api: Api) -> AsyncIterator[AsyncOpenAI]:
    """A client that tries once."""
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk
