"""A TCP proxy in front of a server that breaks connections on purpose."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, TypeAlias

Direction: TypeAlias = Literal["request", "reply"]

_DIRECTIONS: tuple[Direction, ...] = ("request", "reply")
_READ_BYTES = 64 << 10
_THROTTLED_READ_BYTES = 256
_LINGER_0 = struct.pack("ii", 1, 0)  # closing sends a RST


class FaultProxy:
    """Relays to a unix socket, or to a port of loopback.

    Each direction can be stalled, throttled and cut by itself.
    """

    def __init__(self, target: Path | int) -> None:
        self._target = target
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._abandoned: set[asyncio.StreamReader] = set()
        self._readers: set[asyncio.StreamReader] = set()
        self._flows = {direction: asyncio.Event() for direction in _DIRECTIONS}
        self._bytes_per_s: dict[Direction, float | None] = dict.fromkeys(_DIRECTIONS)
        self._bytes_left: dict[Direction, int | None] = dict.fromkeys(_DIRECTIONS)
        for flow in self._flows.values():
            flow.set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def accept(self) -> None:
        """Listen, on the port that it had before; nothing if it does."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.abort()

    def abort(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            _reset(writer)

    def stall(self, direction: Direction) -> None:
        """Let nothing pass in a direction; connections stay open."""
        self._flows[direction].clear()

    def resume(self, direction: Direction) -> None:
        """Let pass what was stalled in a direction."""
        self._flows[direction].set()

    def abandon(self) -> None:
        """Relay nothing of today's connections ever again, and close none: new ones are fine."""
        self._abandoned |= self._readers

    def throttle(self, bytes_per_s: float, direction: Direction) -> None:
        """Let so much pass in a direction, per connection."""
        self._bytes_per_s[direction] = bytes_per_s

    def cut_after(self, count: int, direction: Direction) -> None:
        """Let `count` more bytes pass in a direction, all connections together; then reset all."""
        self._bytes_left[direction] = count

    def mend(self) -> None:
        """Relay again as if nothing had been. Cut connections stay cut."""
        for direction in _DIRECTIONS:
            self._flows[direction].set()
            self._bytes_per_s[direction] = None
            self._bytes_left[direction] = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far_writer: asyncio.StreamWriter | None = None
        try:
            far_reader, far_writer = await self._connect()
            pumps = [
                asyncio.create_task(self._pump(reader, far_writer, "request")),
                asyncio.create_task(self._pump(far_reader, writer, "reply")),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # no server behind the proxy: the client gets a reset
        finally:
            self._writers.discard(writer)
            _reset(writer)
            if far_writer is not None:
                far_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(str(self._target))
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        self._readers.add(reader)
        try:
            while True:
                rate = self._bytes_per_s[direction]
                data = await reader.read(_READ_BYTES if rate is None else _THROTTLED_READ_BYTES)
                await self._flows[direction].wait()
                if reader in self._abandoned:
                    await asyncio.Event().wait()  # until the end of the proxy
                if not data:
                    return
                passing, is_cut = self._allowed(data, direction)
                writer.write(passing)
                await writer.drain()
                if is_cut:
                    self.abort()
                if rate is not None:
                    await asyncio.sleep(len(data) / rate)
        except OSError:
            pass  # the other end is gone
        finally:
            self._readers.discard(reader)

    def _allowed(self, data: bytes, direction: Direction) -> tuple[bytes, bool]:
        left = self._bytes_left[direction]
        if left is None:
            return data, False
        self._bytes_left[direction] = left - len(data) if left > len(data) else None
        return data[:left], left <= len(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()
