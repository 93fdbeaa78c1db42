"""A gateway that starts before Redis listens, says that it is not ready, and serves later."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from darkq import Client
from support.gateway_process import darkq, listening
from support.servers import Server, binaries
from support.waiting import wait_until


@pytest.fixture
async def late_server() -> AsyncIterator[Server]:
    """A server that has not been started."""
    with tempfile.TemporaryDirectory(prefix="darkq-late-") as name:
        server = Server(binaries()["valkey"], Path(name))
        yield server
        server.stop()


async def get(url: str, secret: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
        return response.status, await response.text()


async def test_it_listens_without_redis_and_serves_when_it_comes(late_server: Server) -> None:
    """Red when the gateway exits after its patience."""
    async with darkq(late_server.url, "gateway", DARKQ_GATEWAY_PORT="0") as process:
        url = await listening(process)
        assert (await get(f"{url}/healthz"))[0] == 200
        status, text = await get(f"{url}/readyz")
        assert status == 503
        assert late_server.url.removeprefix("unix://") not in text
        late_server.start()

        async def is_ready() -> bool:
            return (await get(f"{url}/readyz"))[0] == 200

        async def is_served() -> bool:
            return (await get(f"{url}/jobs"))[0] == 200

        await wait_until("it to be ready", is_ready)
        await wait_until("it to serve without a key", is_served)


async def test_it_refuses_to_serve_other_hosts_without_a_key_when_redis_comes(
    late_server: Server,
) -> None:
    """Red when the check for an API key is skipped because Redis was away at the start."""
    settings = {"DARKQ_GATEWAY_PORT": "0", "DARKQ_GATEWAY_HOST": "0.0.0.0"}
    async with darkq(late_server.url, "gateway", **settings) as process:
        url = (await listening(process)).replace("0.0.0.0", "127.0.0.1")
        assert (await get(f"{url}/jobs"))[0] == 503
        late_server.start()
        async with asyncio.timeout(30):
            _, err = await process.communicate()
    assert process.returncode == 1
    assert b"no API key exists; create one first: darkq keys create NAME" in err


async def test_with_a_key_it_serves_other_hosts_when_redis_answers(late_server: Server) -> None:
    """A server that is frozen at the start of the gateway."""
    settings = {"DARKQ_GATEWAY_PORT": "0", "DARKQ_GATEWAY_HOST": "0.0.0.0"}
    late_server.start()
    async with Client(late_server.url) as client:
        _, secret = await client.api_keys.create("alice")
    assert late_server.process is not None
    late_server.process.send_signal(signal.SIGSTOP)
    async with darkq(late_server.url, "gateway", **settings) as process:
        url = (await listening(process)).replace("0.0.0.0", "127.0.0.1")
        assert (await get(f"{url}/healthz"))[0] == 200
        late_server.process.send_signal(signal.SIGCONT)

        async def is_served() -> bool:
            return (await get(f"{url}/jobs", secret))[0] == 200

        async def is_refused() -> bool:
            return (await get(f"{url}/jobs"))[0] == 401

        await wait_until("it to serve with the key", is_served)
        await wait_until("it to refuse without a key", is_refused)


async def test_it_logs_the_reason_without_the_password() -> None:
    url = "redis://:hunter2@127.0.0.1:1"
    async with darkq(url, "gateway", DARKQ_GATEWAY_PORT="0") as process:
        seen = b""
        while b"Redis unavailable" not in seen:
            seen += await asyncio.wait_for(process.stderr.readline(), 30)
    assert b"Redis does not answer at 127.0.0.1:1: connection refused" in seen
    assert b"hunter2" not in seen
