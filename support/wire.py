"""A relay in front of a server that counts what passes."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import NamedTuple, Self

from redis.asyncio.connection import parse_url


class Bytes(NamedTuple):
    """What a client has said, and what it was told."""

    sent: int
    received: int

    def __sub__(self, other: Bytes) -> Bytes:
        return Bytes(self.sent - other.sent, self.received - other.received)


class Wire:
    """Listens on `url`, hands everything on to a server on a unix socket, and counts it."""

    def __init__(self, server_url: str) -> None:
        self._socket = parse_url(server_url).get("path")
        self._counts = {"sent": 0, "received": 0}
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    @property
    def bytes(self) -> Bytes:
        return Bytes(**self._counts)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1")
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._socket)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hand_on(reader, back, "sent"))
                tasks.create_task(self._hand_on(there, writer, "received"))
        finally:
            writer.close()
            back.close()

    async def _hand_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: str
    ) -> None:
        while data := await source.read(1 << 16):
            self._counts[way] += len(data)
            target.write(data)
            await target.drain()
        target.close()
