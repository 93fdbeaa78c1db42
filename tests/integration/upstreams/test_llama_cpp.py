"""A real server of OpenAI's wire, llama.cpp's, with a real small model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import aiohttp
import pytest

from darkq import Client, Settings
from darkq.protocol.options import Options
from darkq.protocol.prompt import Message
from darkq_worker.upstreams.base import End, Rejected, Request, UpstreamError
from darkq_worker.upstreams.http import make_session
from darkq_worker.upstreams.openai import OpenAIUpstream
from support.llama_cpp import llama_cpp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a model on a busy machine

KEY = "the key of this test"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with llama_cpp(KEY) as url:
        yield url


@pytest.fixture(params=["kept", "not kept"])
async def session(request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession]:
    """A worker's session: this server closes connections that it has promised to keep."""
    make = make_session if request.param == "kept" else aiohttp.ClientSession
    async with make() as session:
        yield session


async def ask(upstream: OpenAIUpstream, request: Request) -> tuple[list[str], End]:
    pieces: list[str] = []
    async with aclosing(upstream.stream(request)) as items:
        async for item in items:
            if isinstance(item, End):
                return pieces, item
            assert isinstance(item, str)
            pieces.append(item)
    raise AssertionError("a stream must not stop without an End")


async def test_llama_cpp_lists_its_model_and_streams(
    session: aiohttp.ClientSession, url: str
) -> None:
    upstream = OpenAIUpstream(session, name="llama", url=url, api_key=KEY)
    await upstream.list_models()
    assert upstream.models == ("smollm2",)
    prompt = (Message("developer", "Be brief."), Message("user", "Write about spring. 🌸"))
    options = Options(max_tokens=12, temperature=0, seed=4)
    pieces, end = await ask(upstream, Request(prompt=prompt, options=options))
    assert len(pieces) > 3
    assert end.finish_reason == "length"
    assert end.usage is not None
    assert end.usage.completion_tokens == 12
    assert end.usage.prompt_tokens > 10
    again, _ = await ask(upstream, Request(prompt=prompt, options=options))
    assert "".join(again) == "".join(pieces), "the options were honoured"


async def test_llama_cpp_refuses_a_wrong_key(session: aiohttp.ClientSession, url: str) -> None:
    upstream = OpenAIUpstream(session, name="llama", url=url, api_key="wrong", models=["smollm2"])
    with pytest.raises(Rejected, match="HTTP 401") as caught:
        await ask(upstream, Request(prompt="Hi"))
    assert "wrong" not in caught.value.message


async def test_llama_cpp_refuses_a_long_prompt(session: aiohttp.ClientSession, url: str) -> None:
    upstream = OpenAIUpstream(session, name="llama", url=url, api_key=KEY, models=["smollm2"])
    with pytest.raises(UpstreamError) as caught:
        await ask(upstream, Request(prompt="many words " * 400))
    assert caught.value.status == 400
    assert "many words" not in caught.value.message


async def test_worker_runs_jobs_with_llama_cpp(
    client: Client,
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    url: str,
) -> None:
    upstreams = {"llama": {"url": url, "api_key": KEY}}
    start_worker(make_settings(darkai_url="none", upstreams=upstreams))
    job = await client.enqueue("Write about spring.", options={"max_tokens": 8})
    result = await job.result(timeout_s=30)
    assert result.text
    assert (result.model, result.upstream) == ("smollm2", "llama")
    assert result.finish_reason == "length"
    assert result.usage is not None
    assert result.usage.completion_tokens == 8
