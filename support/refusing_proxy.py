"""A proxy before Redis that speaks its protocol: it passes commands on, or answers them itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import hiredis

ERRORS = {
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL.",
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF": "MISCONF Redis is configured to save RDB snapshots, but cannot persist on disk.",
    "READONLY": "READONLY You can't write against a read only replica.",
    "NOPERM": "NOPERM User default has no permissions to run this command",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is 'no'.",
    "WRONGTYPE": "WRONGTYPE Operation against a key holding the wrong kind of value",
}
_SUBSCRIBES = (b"SUBSCRIBE", b"SSUBSCRIBE")
_READ_BYTES = 64 << 10


class RefusingProxy:
    """Listens on a unix socket, and relays to one. `refused` counts what it answered itself."""

    def __init__(self, target: Path, socket: Path) -> None:
        self.url = f"unix://{socket}"
        self.refused = 0
        self._target, self._socket = target, socket
        self._error: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connected, str(self._socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def refusing(self, error: str) -> Iterator[None]:
        """Answer every command with an error, for the length of the block."""
        self._error = b"-%b\r\n" % error.encode()
        try:
            yield
        finally:
            self._error = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._target))
        connection = _Connection(writer, far_writer)
        pumps = [
            asyncio.create_task(self._requests(reader, connection)),
            asyncio.create_task(connection.replies(far_reader)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.transport.abort()
            far_writer.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        requests = hiredis.Reader()
        with suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                requests.feed(data)
                while (request := requests.gets()) is not False:
                    if self._error is None:
                        connection.relay(request)
                    else:
                        self.refused += 1
                        connection.answer(self._error)


class _Connection:
    """One client's: replies leave in the order of its commands, whoever gives them."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._near, self._far = near, far
        self._due: deque[bytes | None] = deque()  # None: the server's
        self._is_subscriber = False

    def relay(self, request: list[Any]) -> None:
        self._is_subscriber = self._is_subscriber or request[0].upper() in _SUBSCRIBES
        self._due.append(None)
        self._far.write(hiredis.pack_command(tuple(request)))

    def answer(self, error: bytes) -> None:
        self._due.append(error)
        self._flush()

    def _flush(self) -> None:
        while self._due and (self._is_subscriber or self._due[0] is not None):
            answer = self._due.popleft()
            self._near.write(answer or b"")

    async def replies(self, far: asyncio.StreamReader) -> None:
        rest = b""
        while data := await far.read(_READ_BYTES):
            if self._is_subscriber:  # messages answer nothing
                self._near.write(data)
                self._flush()
                continue
            rest, at = rest + data, 0
            while (end := _end_of(rest, at)) is not None:
                self._near.write(rest[at:end])
                at = end
                self._due.popleft()
                self._flush()
            rest = rest[at:]


def _end_of(data: bytes, at: int) -> int | None:
    """Where the reply that begins at `at` ends; None if it is not all there."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    kind, number = data[at : at + 1], data[at + 1 : line]
    end = line + 2
    if kind == b"$" and int(number) >= 0:
        end += int(number) + 2
        return end if end <= len(data) else None
    if kind == b"*":
        for _ in range(max(0, int(number))):
            found = _end_of(data, end)
            if found is None:
                return None
            end = found
    return end
