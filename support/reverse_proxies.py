"""The proxies of docs/operate.md as they stand there, as processes before a gateway."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme

from support.deployment import OPERATE, need
from support.raw_http import RawResponse, connection, make_request, read_response
from support.waiting import wait_until

NAME = "darkq.example"

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


class Proxied(NamedTuple):
    """A proxy that runs, and what its clients need."""

    port: int
    tls: ssl.SSLContext
    log: Path

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect for the length of the block, and leave without a word."""
        url = f"https://127.0.0.1:{self.port}"
        async with connection(url, self.tls, NAME) as streams, asyncio.timeout(30):
            yield streams

    async def ask(self, method: str, target: str, *headers: str) -> RawResponse:
        """Return the response to one request."""
        async with self.connect() as (reader, writer):
            writer.write(make_request(method, target, *headers, host=NAME))
            return await read_response(reader, method)


Command = Callable[[str, int, Path, trustme.LeafCert], list[str]]


@asynccontextmanager
async def proxy_before(gateway: str, command: Command, place: Path) -> AsyncIterator[Proxied]:
    """Run a proxy before a gateway for the length of the block."""
    authority, port = trustme.CA(), free_port()
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    with running(command(gateway, port, place, authority.issue_cert(NAME)), place) as log:
        proxied = Proxied(port, tls, log)

        async def is_ready() -> bool:
            with suppress(ConnectionError):
                return (await proxied.ask("GET", "/readyz")).status == 200
            return False

        await wait_until(f"the proxy, whose log is {log}", is_ready)
        yield proxied
