"""Chat completions, by OpenAI's own SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from darkq import Client, Settings
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.darkai_frames import BEGIN, END, chunk
from support.http_api import Api
from support.scripted_http import ScriptedServer, head
from support.waiting import wait_until

StartWorker = Callable[[Settings], asyncio.Task[None]]
Working = Callable[..., Awaitable[LocalDarkAI]]
MODEL = "llama-3-70b"
HELLO: Any = [{"role": "user", "content": "Why do people queue?"}]


async def test_an_answer_in_one_piece(sdk: AsyncOpenAI, client: Client, working: Working) -> None:
    await working()
    answer = await sdk.chat.completions.create(model=MODEL, messages=HELLO)
    job_id = answer.id.removeprefix("chatcmpl-")
    assert answer.choices[0].message.content == (await client.job(job_id).result()).text
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.object, answer.model) == ("chat.completion", MODEL)


async def test_an_answer_in_chunks(sdk: AsyncOpenAI, client: Client, working: Working) -> None:
    await working(chunks_per_s=200)
    stream = await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    (chunk_id,) = {chunk.id for chunk in chunks}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == (await client.job(chunk_id.removeprefix("chatcmpl-")).result()).text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[-2:]] == [None, "stop"]
    assert len({chunk.created for chunk in chunks}) == 1


async def test_a_conversation_arrives_as_it_was_sent(
    sdk: AsyncOpenAI,
    make_settings: Callable[..., Settings],
    start_worker: StartWorker,
) -> None:
    async with ScriptedServer([head(), BEGIN, chunk("Because."), END]) as upstream:
        start_worker(make_settings(darkai_url=upstream.url))
        await _converse(sdk)
    assert upstream.requests[0].json["query"] == (
        "System: Be brief.\nUser: Hello\nAssistant: Hi.\nUser: Why?\nAssistant:"
    )


async def _converse(sdk: AsyncOpenAI) -> None:
    await sdk.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Why?", "name": "anna"},
        ],
    )


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"n": 2}, "n"),
        ({"extra_body": {"conversation": "c"}}, "conversation"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"image_url": {}}]}]}, "messages[0]"),
        ({"model": 3}, "model"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    sdk: AsyncOpenAI, client: Client, parameters: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.chat.completions.create(**{"model": MODEL, "messages": HELLO, **parameters})
    if param:
        assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


async def test_what_asks_for_nothing_is_taken(sdk: AsyncOpenAI, working: Working) -> None:
    await working()
    await sdk.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        n=1,
        tools=[],
        response_format={"type": "text"},
        user="anna",
        store=False,
        metadata={"order": "17"},
    )


async def test_an_option_that_the_upstream_cannot_honour_is_told(
    sdk: AsyncOpenAI, working: Working
) -> None:
    await working()
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await sdk.chat.completions.create(model=MODEL, messages=HELLO, temperature=0.5)


async def test_an_unknown_model_is_told(sdk: AsyncOpenAI, working: Working) -> None:
    await working()
    with pytest.raises(openai.NotFoundError) as refused:
        await sdk.chat.completions.create(model="gpt-17", messages=HELLO)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


async def test_a_failure_in_mid_stream_raises_in_the_client(
    sdk: AsyncOpenAI, client: Client, working: Working
) -> None:
    # Long enough that the second attempt is still running when it is cancelled.
    await working(Fault.parse("truncate=3"), chunks=3000, chunks_per_s=50, job_tries=50)
    stream = await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    heard = ""
    job_id = ""
    with pytest.raises(openai.APIError) as interrupted:  # noqa: PT012 (some of it is heard)
        async for chunk in stream:
            job_id = chunk.id.removeprefix("chatcmpl-")
            heard += chunk.choices[0].delta.content or ""
    assert heard
    assert interrupted.value.code == "attempt_superseded"
    job = client.job(job_id)
    await wait_until("the job is cancelled", lambda: _state(job, "cancelled"))


async def _state(job: Any, state: str) -> bool:
    return bool((await job.status()).state == state)


async def test_a_client_that_leaves_cancels_the_job_up_to_the_upstream(
    start_gateway: Callable[..., Awaitable[Api]], client: Client, working: Working
) -> None:
    darkai = await working(chunks=10_000, chunks_per_s=50)
    api = await start_gateway(gateway_cancel_grace_s=0.1)
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none") as sdk:
        stream = await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        first = await anext(aiter(stream))
        await stream.close()
    job = client.job(first.id.removeprefix("chatcmpl-"))
    await wait_until("the job is cancelled", lambda: _state(job, "cancelled"))
    heard = lambda: darkai.exchanges[0].outcome == "client left"  # noqa: E731
    await wait_until("the upstream hears of it", heard)


async def test_a_repeated_request_finds_its_job(
    start_gateway: Callable[..., Awaitable[Api]], client: Client, working: Working
) -> None:
    darkai = await working(chunks=40, chunks_per_s=20)
    api = await start_gateway(gateway_cancel_grace_s=3.0)
    base_url = f"{api.url}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key="x", max_retries=2, timeout=1.0) as sdk:
        answer = await sdk.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content
    assert len(darkai.exchanges) == 1


async def test_a_request_that_is_repeated_five_times_is_paid_once(
    start_gateway: Callable[..., Awaitable[Api]], working: Working
) -> None:
    """The SDK's pauses grow. Red when the grace does not grow with them."""
    darkai = await working(chunks=60, chunks_per_s=15)
    api = await start_gateway(gateway_cancel_grace_s=0.1)
    base_url = f"{api.url}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key="x", max_retries=5, timeout=0.5) as sdk:
        answer = await sdk.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content
    assert len(darkai.exchanges) == 1
