"""The web apps of `examples/`, served as their first lines say, with a worker and a DarkAI."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from darkq import Client, Settings
from darkq import event as ev
from darkq.sse import EventDecoder, ServerSentEvent
from darkq_local.local_darkai import LocalDarkAI
from support.waiting import wait_until

EXAMPLES = Path(__file__).parents[3] / "examples"
SERVERS = {
    "fastapi": ["uvicorn", "fastapi_app:app", "--timeout-graceful-shutdown", "1", "--port"],
    "flask": ["flask", "--app", "flask_app", "run", "--port"],
}
STOP_TIMEOUT_S = 15


@pytest.fixture(params=SERVERS)
async def web_app(
    request: pytest.FixtureRequest,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> AsyncIterator[str]:
    """A worker and an app; yields the app's URL."""
    settings = make_settings(darkai_url=(await start_darkai(chunks_per_s=50)).url)
    start_worker(settings)
    async with serving(SERVERS[request.param], settings) as url:
        yield url


@asynccontextmanager
async def serving(
    command: list[str], settings: Settings, port: int | None = None, **variables: str
) -> AsyncIterator[str]:
    assert settings.redis_url is not None
    port = port or find_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command, str(port)),
        env={
            **os.environ,
            "DARKQ_REDIS_URL": settings.redis_url.get_secret_value(),
            **variables,
        },
        cwd=EXAMPLES,
    )
    try:
        await wait_until("the app listens", lambda: _listens(port), timeout_s=20)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def find_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


async def read_events(
    session: aiohttp.ClientSession, url: str, *, after: str | None = None, count: int = 1 << 30
) -> list[ServerSentEvent]:
    """Read a stream as a browser does: to its end, or for so many events."""
    decoder, events = EventDecoder(), list[ServerSentEvent]()
    headers = {"last-event-id": after} if after else {}
    async with session.get(url, headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        async for data in response.content.iter_any():
            events += decoder.feed(data)
            if len(events) >= count:
                return events[:count]
    return events


async def test_a_reader_that_leaves_and_returns_has_every_event_once(
    web_app: str, client: Client
) -> None:
    async with aiohttp.ClientSession(web_app) as session:
        async with session.post("/jobs", json={"prompt": "Why do people queue?"}) as response:
            assert response.status == 202
            job = await response.json()
        seen: list[ServerSentEvent] = []
        while not seen or not isinstance(ev.decode(seen[-1].data), ev.TERMINAL):
            after = seen[-1].id if seen else None
            seen += await read_events(session, job["events"], after=after, count=3)
    text = "".join(e.text for s in seen if isinstance(e := ev.decode(s.data), ev.Chunk))
    assert [s.id for s in seen] == [e.id async for e in client.job(job["id"]).events()]
    assert text == (await client.job(job["id"]).result()).text != ""


async def test_mistakes_are_told(web_app: str, client: Client) -> None:
    async with aiohttp.ClientSession(web_app) as session:
        job = await client.enqueue("Hi")
        for method, path, body, headers, status in (
            ("POST", "/jobs", {"prompt": ""}, {}, 422),
            ("POST", "/jobs", {"prompt": " \n"}, {}, 422),
            ("POST", "/jobs", {}, {}, 422),
            ("POST", "/jobs", ["prompt"], {}, 422),
            ("GET", "/jobs/0-00000000000000000000000000000000/events", None, {}, 404),
            ("GET", "/jobs/nonsense", None, {}, 404),
            ("GET", f"/jobs/{job.id}/events", None, {"last-event-id": "x"}, 400),
            ("GET", f"/jobs/{job.id}", None, {}, 200),
        ):
            async with session.request(method, path, json=body, headers=headers) as response:
                assert response.status == status, path


async def test_a_browser_that_has_seen_all_is_told_not_to_come_again(
    web_app: str, client: Client
) -> None:
    """Red when such a reader gets 200 and nothing: its EventSource returns for ever."""
    job = await client.enqueue("Hi")
    await job.result(20)
    ids = [event.id async for event in job.events()]
    async with aiohttp.ClientSession(web_app) as session:
        for after, status in ((ids[-1], 204), (ids[-2], 200), ("9-9", 410)):
            headers = {"last-event-id": after}
            async with session.get(f"/jobs/{job.id}/events", headers=headers) as response:
                assert response.status == status, after
                data = await response.read()
            assert bool(data) == (status != 204)


@pytest.mark.parametrize("name", SERVERS)
async def test_an_app_stops_when_told_though_a_reader_waits(
    client: Client, settings: Settings, name: str
) -> None:
    """Red without `--timeout-graceful-shutdown`: uvicorn waits for the job, which has no worker."""
    job = await client.enqueue("Hi")
    async with aiohttp.ClientSession() as session:
        async with serving(SERVERS[name], settings) as url:
            response = await session.get(f"{url}/jobs/{job.id}/events")
            assert await response.content.readany()
        response.close()  # it has ended meanwhile: `serving` waits for that
