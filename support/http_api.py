"""A caller of the gateway: JSON in and out, event streams, and bare bytes over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp

from darkq.sse import EventDecoder, ServerSentEvent


class Answer(NamedTuple):
    status: int
    json: Any
    headers: Any

    @property
    def code(self) -> str:
        """The code of an error."""
        code: str = self.json["error"]["code"]
        return code


class Api:
    """Calls one gateway, with a key, with a ticket, or with neither."""

    def __init__(self, url: str, key: str | None = None, ticket: str | None = None) -> None:
        self.url = url
        self._ticket = ticket
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=30))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.http.close()

    def with_key(self, key: str) -> Api:
        """Return a caller of the same gateway; close it by `async with`."""
        return Api(self.url, key)

    def with_ticket(self, ticket: str) -> Api:
        """Return a caller with a ticket in each of its URLs; close it by `async with`."""
        return Api(self.url, ticket=ticket)

    def locate(self, path: str) -> str:
        """Return the URL of a path."""
        if self._ticket is None:
            return self.url + path
        return f"{self.url}{path}{'&' if '?' in path else '?'}ticket={self._ticket}"

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        if body is not None:
            options["json"] = body
        async with self.http.request(method, self.locate(path), **options) as response:
            data = await response.read()
            is_json = response.content_type == "application/json"
            return Answer(
                response.status, json.loads(data) if is_json and data else data, response.headers
            )

    async def enqueue(self, prompt: str = "hello", **fields: Any) -> str:
        answer = await self("POST", "/jobs", {"prompt": prompt, **fields})
        assert answer.status == 201, answer
        job_id: str = answer.json["job_id"]
        return job_id

    @asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[AsyncIterator[Any]]:
        """Read an event stream; yields its events."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.get(self.locate(path), headers=names) as response:
            assert response.status == 200, (response.status, await response.read())
            assert response.content_type == "text/event-stream"
            yield _events(response)

    async def events(self, path: str, **headers: str) -> list[ServerSentEvent]:
        """Read an event stream to its end."""
        async with self.stream(path, **headers) as events:
            return [event async for event in events]

    async def bare(self, request: bytes, timeout_s: float = 5.0) -> bytes:
        """Send bytes as they are, and return what comes until the server closes or is silent."""
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        received = b""
        try:
            writer.write(request)
            async with asyncio.timeout(timeout_s):
                while data := await reader.read(65536):
                    received += data
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return received


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[ServerSentEvent]:
    decoder = EventDecoder()
    async for chunk in response.content.iter_any():
        for event in decoder.feed(chunk):
            yield event
