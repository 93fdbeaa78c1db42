"""DarkAI over TLS, which is how the public service speaks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
import trustme
import uvloop

from darkq_worker.upstreams.base import Request, Unreachable
from darkq_worker.upstreams.darkai import DarkAIUpstream
from support.blocking_http import BlockingServer
from support.darkai_frames import BEGIN, chunk
from support.scripted_http import head

PARTIAL = head() + BEGIN + chunk("a")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that signs for 127.0.0.1 and that nobody trusts unless told to."""
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> BlockingServer:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    server = BlockingServer(PARTIAL, tls)
    server.start()
    return server


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_close_does_not_wait_for_the_tls_shutdown_of_the_peer(
    run: Callable[[Coroutine[Any, Any, None]], None],
    server: BlockingServer,
    authority: trustme.CA,
) -> None:
    async def main() -> None:
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        connector = aiohttp.TCPConnector(ssl=trust)
        async with aiohttp.ClientSession(connector=connector) as session:
            items = DarkAIUpstream(session, url=server.url).stream(Request(prompt="Hello"))
            assert await anext(items) == "a"
            await items.aclose()
            assert server.client_gone.wait(5)

    run(main())
    server.join(5)


async def test_untrusted_certificate_is_unreachable(server: BlockingServer) -> None:
    async with aiohttp.ClientSession() as session:
        items = DarkAIUpstream(session, url=server.url).stream(Request(prompt="Hello"))
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            await anext(items)
    await asyncio.to_thread(server.join, 5)
