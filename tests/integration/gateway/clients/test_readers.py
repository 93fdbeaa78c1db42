"""Readers of event streams that others wrote follow a job: they hold the URL of a ticket alone."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from darkq import Client, Settings
from faults.proxy import FaultProxy
from integration.gateway.clients import environments
from integration.gateway.conftest import make_key
from support.chat_service import serving_chat
from support.clients import READERS, Reader
from support.gateways import Gateways
from support.http_api import Api
from support.openai_frames import DONE, delta, finish
from support.waiting import wait_until

__all__ = ["make_key"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

each_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.packages[0])

DEADLINE_S = 30.0
TTL_S = 600
# In the chunk's size, in the name of a field, in the JSON, in a character, in the id.
CUTS_BYTES = (2, 7, 30, 47, 62)


class Words:
    """The upstream: it sends each word when the test says it."""

    def __init__(self) -> None:
        self._queue = asyncio.Queue[str | None]()
        self.said: list[str] = []

    def say(self) -> str:
        word = f"wörd {len(self.said)}, "
        self.said.append(word)
        self._queue.put_nowait(word)
        return word

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while (word := await self._queue.get()) is not None:
            await response.write(delta(word))
        await response.write(finish() + DONE)
        return response


class Program:
    """A reader's process, and what it has printed."""

    def __init__(self, output: asyncio.StreamReader) -> None:
        self._output = output
        self.ids: list[str] = []
        self.text = ""
        self.stop: str | int | None = None

    async def read(self, text: str) -> None:
        """Read until the text ends with this word."""
        while not self.text.endswith(text):
            await self._read_line()

    async def finish(self) -> None:
        """Read until it stops."""
        while self.stop is None:
            await self._read_line()

    async def _read_line(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            line = await self._output.readline()
        assert line, "it ended"
        printed = json.loads(line)
        self.stop = printed.get("stop")
        if "id" in printed:
            assert printed["id"] == printed["data"]["id"]
            self.ids.append(printed["id"])
            self.text += printed["data"].get("text", "")


@asynccontextmanager
async def reading(reader: Reader, *arguments: str) -> AsyncIterator[Program]:
    """Run the program of a reader."""
    command = await asyncio.to_thread(environments.command, reader.environment, reader.file)
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield Program(process.stdout)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def words(
    make_settings: Callable[..., Settings], start_worker: Callable[[Settings], object]
) -> AsyncIterator[Words]:
    """A worker with an upstream that says the words of the test."""
    words = Words()
    async with serving_chat(words.answer) as url:
        upstreams = {"words": {"url": url, "models": "m"}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))
        yield words
        words.end()


@pytest.fixture
async def gateways(make_settings: Callable[..., Settings]) -> AsyncIterator[Gateways]:
    gateways = Gateways(make_settings, "")
    await gateways.start()
    yield gateways
    await gateways.stop()


@pytest.fixture
async def alice(gateways: Gateways, make_key: Callable[..., Awaitable[str]]) -> AsyncIterator[Api]:
    async with Api(gateways.url, await make_key("alice")) as caller:
        yield caller


async def ticket_of_gateway(alice: Api, _: Client, job_id: str) -> str:
    ticket: str = (await alice("POST", f"/jobs/{job_id}/ticket", {})).json["ticket"]
    return ticket


async def ticket_of_library(_: Api, client: Client, job_id: str) -> str:
    return await client.job(job_id).ticket()


def statuses_of_reads(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the statuses of the event streams that have ended, from the gateway's log."""
    found = (re.search(r"/jobs/\{job_id\}/events.* status=(\d+)", each) for each in caplog.messages)
    return [int(match[1]) for match in found if match]


async def has_all(program: Program, client: Client, job_id: str) -> None:
    """Require every event once and in order, and the text of the result."""
    job = client.job(job_id)
    assert program.ids == [event.id async for event in job.events()]
    assert program.text == (await job.result(DEADLINE_S)).text


@each_reader
@pytest.mark.parametrize("make_ticket", [ticket_of_gateway, ticket_of_library])
async def test_reader_resumes_after_cuts_within_an_event(
    reader: Reader,
    make_ticket: Callable[..., Awaitable[str]],
    alice: Api,
    client: Client,
    words: Words,
) -> None:
    """Red if an id is sent before its data: a reader may take it for the last one it has."""
    job_id = await alice.enqueue()
    ticket = await make_ticket(alice, client, job_id)
    port = urlsplit(alice.url).port
    assert port is not None
    async with FaultProxy(port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/jobs/{job_id}/events?ticket={ticket}"
        async with reading(reader, url) as program:
            for count in CUTS_BYTES:
                await program.read(words.say())
                proxy.cut_after(count, "reply")
                await program.read(words.say())
            words.end()
            await program.finish()
    await has_all(program, client, job_id)
    assert program.text == "".join(words.said)


@each_reader
async def test_reader_resumes_after_its_gateway_was_replaced(
    reader: Reader, gateways: Gateways, alice: Api, client: Client, words: Words
) -> None:
    """Red if a reader takes the clean end of its stream for the end of the job."""
    job_id = await alice.enqueue()
    ticket = await ticket_of_gateway(alice, client, job_id)
    async with reading(reader, f"{alice.url}/jobs/{job_id}/events?ticket={ticket}") as program:
        await program.read(words.say())
        await gateways.stop()
        word = words.say()
        await gateways.start()
        await program.read(word)
        words.end()
        await program.finish()
    await has_all(program, client, job_id)


@each_reader
async def test_reader_of_a_finished_job_stops(
    reader: Reader, alice: Api, client: Client, words: Words, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    job_id = await alice.enqueue()
    words.say()
    words.end()
    await client.job(job_id).result(DEADLINE_S)
    ticket = await ticket_of_gateway(alice, client, job_id)
    async with reading(reader, f"{alice.url}/jobs/{job_id}/events?ticket={ticket}") as program:
        await program.finish()
    await has_all(program, client, job_id)
    assert program.stop == (204 if 204 in reader.at_end else "completed")
    await wait_until("the log records", lambda: has_read(caplog, *reader.at_end))


async def has_read(caplog: pytest.LogCaptureFixture, *statuses: int) -> bool:
    return statuses_of_reads(caplog) == [*statuses]


@each_reader
async def test_reader_whose_ticket_has_expired_stops(
    reader: Reader,
    alice: Api,
    client: Client,
    words: Words,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red if it asks again: after it has lost its connection, and at the first request."""
    caplog.set_level("INFO")
    job_id = await alice.enqueue()
    ticket = await client.job(job_id).ticket(ttl_s=TTL_S)
    port = urlsplit(alice.url).port
    assert port is not None
    async with FaultProxy(port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/jobs/{job_id}/events?ticket={ticket}"
        async with reading(reader, url) as program:
            await program.read(words.say())
            later = SimpleNamespace(time=lambda: time.time() + TTL_S, monotonic=time.monotonic)
            monkeypatch.setattr("darkq.jobs.tickets.time", later)
            proxy.abort()
            await program.finish()
        assert program.stop == 401
        assert len(program.ids) == 3
        async with reading(reader, url) as program:
            await program.finish()
        assert (program.stop, program.ids) == (401, [])
    await wait_until("the log records", lambda: has_read(caplog, 401, 401))


@each_reader
async def test_reader_with_the_ticket_of_another_job_stops(
    reader: Reader, alice: Api, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    job_id, other = await alice.enqueue(), await alice.enqueue()
    ticket = await ticket_of_gateway(alice, client, other)
    async with reading(reader, f"{alice.url}/jobs/{job_id}/events?ticket={ticket}") as program:
        await program.finish()
    assert (program.stop, program.ids) == (404, [])
    await wait_until("the log record", lambda: has_read(caplog, 404))


@pytest.fixture
def without_handlers() -> Reader:
    """`fetchEventSource` with `onmessage` alone."""
    (reader,) = (each for each in READERS if "fetch" in each.packages[0])
    return reader


async def test_fetch_event_source_without_handlers_asks_again_after_a_refusal(
    without_handlers: Reader, alice: Api, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    job_id, other = await alice.enqueue(), await alice.enqueue()
    ticket = await ticket_of_gateway(alice, client, other)
    url = f"{alice.url}/jobs/{job_id}/events?ticket={ticket}"
    async with reading(without_handlers, url, "none"):
        await wait_until("three requests", lambda: has_read(caplog, 404, 404, 404))


async def test_fetch_event_source_without_handlers_stops_with_its_gateway(
    without_handlers: Reader, gateways: Gateways, alice: Api, client: Client, words: Words
) -> None:
    job_id = await alice.enqueue()
    ticket = await ticket_of_gateway(alice, client, job_id)
    url = f"{alice.url}/jobs/{job_id}/events?ticket={ticket}"
    async with reading(without_handlers, url, "none") as program:
        await program.read(words.say())
        await gateways.stop()
        await program.finish()
    assert program.stop == "end of stream"
    await gateways.start()
