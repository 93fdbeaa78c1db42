"""Answers in one piece that take longer than a proxy waits for a silent server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai import AsyncOpenAI

from darkq import Client, JobCancelled
from darkq_local.faults import Fault
from support.http_api import Api

SILENCE_S = 1.0
"""How long the proxy of these tests waits: below what an answer takes, above the heartbeat."""
SLOW: dict[str, Any] = {"chunks": 12, "chunks_per_s": 8}
HI = [{"role": "user", "content": "Hi"}]

StartGateway = Callable[..., Awaitable[Api]]


@asynccontextmanager
async def impatient_proxy(url: str) -> AsyncIterator[str]:
    """Passes bytes on, and gives up a server that is silent for `SILENCE_S`, as nginx does."""
    target, tasks = urlsplit(url), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(target.hostname, target.port)

        async def upwards() -> None:
            while data := await reader.read(1 << 16):
                ours.write(data)

        up = asyncio.create_task(upwards())
        try:
            while data := await asyncio.wait_for(theirs.read(1 << 16), SILENCE_S):
                writer.write(data)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            up.cancel()
            ours.close()
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def patient(start_gateway: StartGateway) -> Api:
    """A gateway whose heartbeat is shorter than the proxy's patience, as 15 s and 75 s are."""
    return await start_gateway(gateway_heartbeat_s=0.2)


async def test_an_answer_that_takes_long_passes_an_impatient_proxy(
    patient: Api, working: Callable[..., Awaitable[Any]]
) -> None:
    """Red when nothing is sent before the end: the proxy gives up, and the job is cancelled."""
    await working(**SLOW)
    async with (
        impatient_proxy(patient.url) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk,
    ):
        chat, response = await asyncio.gather(
            sdk.chat.completions.create(model="llama-3-70b", messages=HI),  # type: ignore[arg-type]
            sdk.responses.create(model="llama-3-70b", input="Hi"),
        )
    assert len((chat.choices[0].message.content or "").split()) == SLOW["chunks"]
    assert response.output_text == chat.choices[0].message.content


async def test_blanks_come_before_the_json_and_no_byte_into_a_quick_answer(
    start_gateway: StartGateway, patient: Api, working: Callable[..., Awaitable[Any]]
) -> None:
    await working(**SLOW)
    quick = await start_gateway(gateway_heartbeat_s=30.0)
    bodies = []
    for api in (patient, quick):
        async with api.http.post(
            f"{api.url}/v1/chat/completions", json={"model": "llama-3-70b", "messages": HI}
        ) as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            bodies.append(await answer.read())
    slowly, at_once = bodies
    assert slowly.startswith(b"   ")
    assert at_once.startswith(b"{")
    assert json.loads(slowly)["choices"] == json.loads(at_once)["choices"]


FAILS_LATE = Fault.parse("error=6;slow=0.15")


async def test_a_late_failure_is_its_true_status_to_openais_library(
    patient: Api, client: Client, working: Callable[..., Awaitable[Any]]
) -> None:
    """Red when such a client gets 200 without an answer: then `choices` is None."""
    await working(*[FAILS_LATE] * 3, **SLOW)
    async with AsyncOpenAI(base_url=f"{patient.url}/v1", api_key="none") as sdk:
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.chat.completions.create(model="llama-3-70b", messages=HI)  # type: ignore[arg-type]
    assert caught.value.code == "upstream_overloaded"
    assert len(await client.jobs()) == 1  # its repetitions found the job that had failed


async def test_a_late_failure_is_an_error_body_to_any_other_client(
    patient: Api, working: Callable[..., Awaitable[Any]]
) -> None:
    await working(*[FAILS_LATE] * 3, **SLOW)
    async with patient.http.post(
        f"{patient.url}/v1/chat/completions", json={"model": "llama-3-70b", "messages": HI}
    ) as answer:
        assert answer.status == 200
        body = await answer.json()
    assert body["error"]["code"] == "upstream_overloaded"


async def test_a_client_that_leaves_a_long_answer_still_cancels_its_job(
    start_gateway: StartGateway, client: Client, working: Callable[..., Awaitable[Any]]
) -> None:
    api = await start_gateway(gateway_heartbeat_s=0.1, gateway_cancel_grace_s=0.1)
    await working(chunks=500, chunks_per_s=5)
    async with api.http.post(
        f"{api.url}/v1/chat/completions", json={"model": "llama-3-70b", "messages": HI}
    ) as answer:
        assert await answer.content.readexactly(3) == b"   "
        answer.close()
    (job,) = await client.jobs()
    with pytest.raises(JobCancelled):
        await client.job(job.job_id).result(10)
