"""The proxies of docs/operate.md as they stand there, with TLS, before a real gateway.

Each event is read before the next one exists: a proxy that holds anything back never gets there.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from redis.asyncio import Redis

from support.by_hand import Hand, chunk, started
from support.deployment import OPERATE, need
from support.waiting import wait_until

NAME = "darkq.example"
EVENTS = 20

NGINX = """
daemon off; pid {place}/pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
    {snippet}
}}
"""
CADDY = "{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {place}\n}}\n{snippet}"


def snippet(language: str) -> str:
    """What the document shows in a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", OPERATE.read_text(), re.DOTALL)
    assert NAME in text
    return str(text)


def replaced(text: str, instead: dict[str, str]) -> str:
    """Replace what must be another here; each stands there."""
    for old, new in instead.items():
        assert old in text
        text = text.replace(old, new)
    return text


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], place: Path) -> Iterator[Path]:
    """Run a proxy for the length of the block; yields its log."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(place)}
    log = place / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield log
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(10)


def nginx(gateway: str, port: int, place: Path, certificate: trustme.LeafCert) -> list[str]:
    """Write the configuration and return the command."""
    program = need("nginx", "nginx-light")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(place / "both.pem"))
    instead = {
        "127.0.0.1:8080": urlsplit(gateway).netloc,
        "listen 443": f"listen 127.0.0.1:{port}",
        f"/etc/ssl/{NAME}.pem": str(place / "both.pem"),
        f"/etc/ssl/private/{NAME}.key": str(place / "both.pem"),
    }
    text = replaced(snippet("nginx"), instead)
    (place / "config").write_text(NGINX.format(place=place, snippet=text))
    return [program, "-p", str(place), "-c", str(place / "config")]


def caddy(gateway: str, port: int, place: Path, certificate: trustme.LeafCert) -> list[str]:
    """Write the configuration and return the command."""
    if (program := shutil.which("caddy")) is None:
        pytest.skip("no caddy is installed")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(place / "both.pem"))
    both = place / "both.pem"
    instead = {
        "127.0.0.1:8080": urlsplit(gateway).netloc,
        f"{NAME} {{": f"https://{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {both} {both}",
    }
    text = replaced(snippet("caddy"), instead)
    (place / "config").write_text(CADDY.format(place=place, snippet=text))
    return [program, "run", "--adapter", "caddyfile", "--config", str(place / "config")]


class Client:
    """Speaks HTTP over TLS to a proxy, and leaves as somebody does whose lid is closed."""

    def __init__(self, port: int, authority: trustme.CA) -> None:
        self._port = port
        self._context = ssl.create_default_context()
        authority.configure_trust(self._context)

    @asynccontextmanager
    async def get(self, path: str) -> AsyncIterator[asyncio.StreamReader]:
        """Ask for a path; yields what is answered, byte for byte."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context, server_hostname=NAME
        )
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
            async with asyncio.timeout(20):
                yield reader
        finally:
            writer.transport.abort()

    async def status(self, path: str) -> int:
        """Return the status of an answer; 0 while nobody listens."""
        try:
            async with self.get(path) as answer:
                return int((await answer.readline()).split()[1])
        except ConnectionError:
            return 0


@pytest.mark.parametrize("proxy", [nginx, caddy], ids=lambda proxy: proxy.__name__)
async def test_each_event_comes_through_before_the_next_one_is(
    proxy: Any, start_gateway: Any, redis: Redis, tmp_path: Path
) -> None:
    gateway = await start_gateway(gateway_allowed_hosts=NAME)
    authority, port = trustme.CA(), free_port()
    command = proxy(gateway.url, port, tmp_path, authority.issue_cert(NAME))
    client, hand = Client(port, authority), Hand(redis)
    with running(command, tmp_path) as log:

        async def is_ready() -> bool:
            return await client.status("/readyz") == 200

        await wait_until(f"the proxy, whose log is {log}", is_ready, 15)
        claim = await hand.take()
        async with client.get(f"/jobs/{claim.keys.public_id}/events") as answer:
            await hand.append(claim, started(1))
            for number in range(EVENTS):
                await answer.readuntil(f"id: 1-{number}\n".encode())
                await hand.append(claim, chunk(1, number + 1))

        async def has_no_reader() -> bool:
            numbers = (await gateway("GET", "/metrics")).json.decode()
            return "\ndarkq_gateway_readers 0.0\n" in numbers

        await wait_until("the gateway to hear that the reader has left", has_no_reader)
        assert await client.status("/metrics") == 404
