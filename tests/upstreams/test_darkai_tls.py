"""DarkAI over TLS, which is how the public service speaks."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from darkq_worker.upstreams.base import Request, Unreachable
from darkq_worker.upstreams.darkai import DarkAIUpstream
from support.blocking_http import BlockingServer
from support.darkai_frames import BEGIN, chunk
from support.scripted_http import head

PARTIAL = head() + BEGIN + chunk("a")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out"),
            str(certificate),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return certificate, key


@pytest.fixture
def server(certificate: tuple[Path, Path]) -> BlockingServer:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    server = BlockingServer(PARTIAL, tls)
    server.start()
    return server


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_closing_does_not_wait_for_the_peer_to_take_its_leave(
    run: Callable[[Coroutine[Any, Any, None]], None],
    server: BlockingServer,
    certificate: tuple[Path, Path],
) -> None:
    async def main() -> None:
        trust = ssl.create_default_context(cafile=certificate[0])
        connector = aiohttp.TCPConnector(ssl=trust)
        async with aiohttp.ClientSession(connector=connector) as session:
            items = DarkAIUpstream(session, url=server.url).stream(Request(prompt="Hello"))
            assert await anext(items) == "a"
            await items.aclose()
            assert server.client_gone.wait(5)

    run(main())
    server.join(5)


async def test_certificate_that_nobody_trusts(server: BlockingServer) -> None:
    async with aiohttp.ClientSession() as session:
        items = DarkAIUpstream(session, url=server.url).stream(Request(prompt="Hello"))
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            await anext(items)
    await asyncio.to_thread(server.join, 5)
