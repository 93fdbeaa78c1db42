"""One `Client`, and a second event loop: as `asyncio.run` twice, or an async view of Flask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from flask import Flask

from darkq import Client, Settings
from darkq.sync import Client as SyncClient

UNKNOWN = f"0-{'0' * 32}"
TIMEOUT_S = 5.0
RULE = "this Client belongs to another event loop"


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


Call = Callable[[Client], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "enqueue": lambda client: client.enqueue("hi"),
    "enqueue with a key": lambda client: client.enqueue("hi", idempotency_key="k"),
    "enqueue_many": lambda client: client.enqueue_many(["hi"]),
    "ping": lambda client: client.ping(),
    "jobs": lambda client: client.jobs(),
    "failed": lambda client: _all(client.failed()),
    "workers": lambda client: client.workers(),
    "upstreams": lambda client: client.upstreams(),
    "fleet": lambda client: client.fleet(),
    "batches": lambda client: _all(client.batches()),
    "job.events": lambda client: _all(client.job(UNKNOWN).events()),
    "job.text": lambda client: _all(client.job(UNKNOWN).text()),
    "job.result": lambda client: client.job(UNKNOWN).result(),
    "job.status": lambda client: client.job(UNKNOWN).status(),
    "job.cancel": lambda client: client.job(UNKNOWN).cancel(),
    "batch.run": lambda client: client.batch().__aenter__(),
    "batch.status": lambda client: client.batch(f"batch-{UNKNOWN}").status(),
    "batch.events": lambda client: _all(client.batch(f"batch-{UNKNOWN}").events()),
    "queue.pause": lambda client: client.queue("bulk").pause(),
    "queue.status": lambda client: client.queue("bulk").status(),
    "api_keys": lambda client: client.api_keys.listed(),
    "aclose": lambda client: client.aclose(),
}


@pytest.fixture
def in_another_thread() -> Callable[[Awaitable[Any]], Any]:
    """Run something in a loop of its own, as a thread of a web server does."""

    def run(call: Awaitable[Any]) -> Any:
        ended: list[Any] = []

        async def within() -> None:
            try:
                ended.append(await asyncio.wait_for(call, TIMEOUT_S))
            except Exception as error:
                ended.append(error)

        thread = threading.Thread(target=lambda: asyncio.run(within()))
        thread.start()
        thread.join()
        return ended[0]

    return run


@pytest.mark.parametrize("name", CALLS)
async def test_a_second_loop_is_told_at_once(
    client: Client, in_another_thread: Callable[[Awaitable[Any]], Any], name: str
) -> None:
    """Red when nothing notes the loop: the call waits for ever, or fails every other time."""
    await client.ping()
    for _ in range(2):
        ended = await asyncio.to_thread(in_another_thread, CALLS[name](client))
        assert isinstance(ended, RuntimeError), ended
        assert str(ended).startswith(RULE)
    assert (await (await client.enqueue("hi")).status()).state == "queued"


def test_asyncio_run_twice(redis: object, settings: Settings) -> None:
    client = Client(settings=settings)

    async def once() -> None:
        try:
            await client.enqueue("hi")
        finally:
            await client.aclose()

    asyncio.run(once())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=RULE):
            asyncio.run(once())


def test_views_of_flask_share_a_blocking_client(redis: object, settings: Settings) -> None:
    app, client = Flask(__name__), SyncClient(settings=settings)

    @app.get("/")
    def view() -> str:
        return client.enqueue("hi").id

    with client:
        visitor = app.test_client()
        assert [visitor.get("/").status_code for _ in range(3)] == [200] * 3
