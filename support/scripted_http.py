"""An HTTP server that says exactly the bytes it is told, and notes what it was asked."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeAlias


class Reset:
    """Cut the connection off with a TCP RST."""


class Stall:
    """Say nothing more and wait until the client has gone."""


class NextRequest:
    """Go on with the next script when another request comes over this connection."""


@dataclass(frozen=True)
class Repeat:
    """Say the same again and again, until the client has gone if no number of times is given."""

    data: bytes
    every_s: float
    times: int = sys.maxsize


RESET: Final = Reset()
STALL: Final = Stall()
NEXT_REQUEST: Final = NextRequest()

# An Event is waited for. At the end of a script the connection is closed.
Step: TypeAlias = bytes | asyncio.Event | Repeat | Reset | Stall | NextRequest


@dataclass(frozen=True)
class Recorded:
    """A request as it came."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def head(status: str = "200 OK", content_type: str = "text/event-stream", **headers: str) -> bytes:
    """A response's head; underscores in names stand for hyphens. The body ends with EOF."""
    fields = {"content-type": content_type, **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def chunked(*bodies: bytes) -> bytes:
    """Each body as one HTTP chunk, without the terminating one."""
    return b"".join(b"%x\r\n%s\r\n" % (len(body), body) for body in bodies)


class ScriptedServer:
    """Answers the n-th request with the n-th script, and later ones with the last.

    With `models`, requests for a list of models have scripts of their own.
    """

    def __init__(
        self, *scripts: Sequence[Step], models: Sequence[Sequence[Step]] = (), port: int = 0
    ) -> None:
        self._wanted_port = port
        self.requests: list[Recorded] = []
        self.client_gone = asyncio.Event()
        self._scripts = scripts
        self._models = models
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._wanted_port)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/chat"

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        task = asyncio.create_task(self._serve(self._connections, reader, writer))
        self._tasks.add(task)

    def _script_of_last(self) -> Sequence[Step]:
        """Return the script for the request that has come last."""
        if not self._models:
            return self._scripts[min(len(self.requests), len(self._scripts)) - 1]
        lists = [each.target.endswith("/models") for each in self.requests]
        scripts = self._models if lists[-1] else self._scripts
        return scripts[min(lists.count(lists[-1]), len(scripts)) - 1]

    async def _serve(
        self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while (request := await _read_request(connection, reader)) is not None:
                self.requests.append(request)
                if not await self._play(self._script_of_last(), reader, writer):
                    break
        except ConnectionError:
            self.client_gone.set()
        finally:
            writer.close()

    async def _play(
        self, script: Sequence[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Play a script; return whether to wait for another request."""
        for step in script:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case asyncio.Event():
                    await step.wait()
                case Repeat():
                    for _ in range(step.times):
                        writer.write(step.data)
                        await writer.drain()
                        with suppress(TimeoutError):
                            await asyncio.wait_for(reader.read(), step.every_s)
                            self.client_gone.set()
                            break
                case Stall():
                    await reader.read()
                    self.client_gone.set()
                case Reset():
                    await writer.drain()
                    linger_0 = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger_0
                    )
                    writer.transport.abort()
                case NextRequest():
                    return True
        return False


async def _read_request(connection: int, reader: asyncio.StreamReader) -> Recorded | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    request_line, *lines = raw.decode("latin-1").rstrip().split("\r\n")
    method, target, _ = request_line.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Recorded(connection, method, target, headers, body)
