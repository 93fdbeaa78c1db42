"""HTTP/1.1 byte by byte, for what a library would not send: pipelines, bad framing, slow readers.

`read_response` is as strict as a proxy that shares connections between clients: a byte that does
not belong to the response of its request is an error, not something to skip.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [ -~]*\r\n")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)\r\n")
_HAVE_NO_BODY = (204, 304)


class BadFraming(AssertionError):
    """Bytes that cannot be a response."""


class ConnectionEnded(Exception):
    """The server has closed the connection, and no response has begun."""


class RawResponse(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def make_request(
    method: str,
    target: str,
    *headers: str,
    body: bytes | None = None,
    host: str = "localhost",
    version: str = "HTTP/1.1",
) -> bytes:
    """Return the bytes of a request; a body has its Content-Length."""
    lines = [f"{method} {target} {version}", f"Host: {host}", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + (body or b"")


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Read a status line and headers; names are in lower case. Interim responses are skipped."""
    status = 100
    headers: dict[str, str] = {}
    while status < 200:
        if not (line := await _first_line(reader)):
            raise ConnectionEnded
        if (match := _STATUS_LINE.fullmatch(line)) is None:
            raise BadFraming(f"no status line: {line[:200]!r}")
        status, headers = int(match[1]), {}
        while (line := await reader.readline()) != b"\r\n":
            if (header := _HEADER.fullmatch(line)) is None:
                raise BadFraming(f"no header: {line[:200]!r}")
            name = header[1].decode().lower()
            # Caddy names itself beside the server behind it.
            assert name not in headers or name in ("vary", "server"), f"{name} twice"
            headers[name] = header[2].decode("latin-1").strip()
    return status, headers


async def _first_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


async def read_response(reader: asyncio.StreamReader, method: str) -> RawResponse:
    """Read one response to a request of this method, and not a byte more.

    Raises `BadFraming`, `ConnectionEnded`, and for a body that is cut off
    `asyncio.IncompleteReadError` or `ConnectionError`.
    """
    status, headers = await read_head(reader)
    if method == "HEAD" or status in _HAVE_NO_BODY:
        return RawResponse(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        return RawResponse(status, headers, await _read_chunks(reader))
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
        return RawResponse(status, headers, body)
    return RawResponse(status, headers, await reader.read())


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readline()
        if re.fullmatch(rb"[0-9a-f]+\r\n", line) is None:
            if not line:
                raise asyncio.IncompleteReadError(body, None)
            raise BadFraming(f"no chunk: {line[:200]!r}")
        size = int(line, 16)
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise BadFraming("a chunk is longer than it says")
        if size == 0:
            return body


@asynccontextmanager
async def connection(
    url: str, tls: ssl.SSLContext | None = None, server_name: str | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server for the length of the block."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=tls, server_hostname=server_name, limit=1 << 20
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def pipelined(
    url: str, *requests: tuple[str, bytes], timeout_s: float = 5.0
) -> list[RawResponse]:
    """Send requests, each with its method, in one piece on one connection; return the responses.

    There are fewer responses than requests when the server closes the connection before. Raises
    `BadFraming` where the bytes are not those of one response for each request, nothing between
    and nothing after.
    """
    responses = []
    last = make_request("GET", "/healthz", "Connection: close")
    async with connection(url) as (reader, writer), asyncio.timeout(timeout_s):
        writer.write(b"".join(request for _, request in requests) + last)
        try:
            for method, _ in requests:
                responses.append(await read_response(reader, method))
            ending = await read_response(reader, "GET")
            assert ending.json == {"status": "ok"}, ending
        except ConnectionEnded:
            return responses
        if rest := await reader.read():
            raise BadFraming(f"after the last response: {rest[:200]!r}")
    return responses


class DeafClients:
    """Clients that send requests and read nothing, with receive buffers as small as can be.

    Counts those whose connection the server has reset or closed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._sockets: list[socket.socket] = []

    async def connect(self, count: int, request: bytes, times: int) -> None:
        """Open more connections, and send the same request on each as often as it takes."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(client, self._address)
            with suppress(BlockingIOError, ConnectionError):
                client.send(request * times)
            self._sockets.append(client)

    def open(self) -> int:
        """Return how many connections the server still holds."""
        return sum(map(is_open, self._sockets))

    def close(self) -> None:
        """Close all."""
        for client in self._sockets:
            client.close()


def is_open(client: socket.socket) -> bool:
    """Tell from the state of a connection, since reading would take what is there."""
    established = 1
    state: int = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == established
