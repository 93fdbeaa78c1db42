"""A forward proxy for plain HTTP: takes absolute-form requests and notes where they went."""

from __future__ import annotations

import asyncio
import base64
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class HttpProxy:
    """`credentials` ("user:password"), if given, are asked of every request."""

    def __init__(self, credentials: str | None = None) -> None:
        self.targets: list[str] = []
        self.bytes_relayed = 0
        self._credentials = credentials
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        login = f"{self._credentials}@" if self._credentials else ""
        self.url = f"http://{login}127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
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

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            request_line, *lines = head.decode("latin-1").rstrip().split("\r\n")
            headers = {n.lower(): v for n, v in (line.split(": ", 1) for line in lines)}
            method, target, version = request_line.split(" ")
            self.targets.append(target)
            if self._credentials is not None:
                expected = f"Basic {base64.b64encode(self._credentials.encode()).decode()}"
                if headers.pop("proxy-authorization", None) != expected:
                    writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
                    return
            url = urlsplit(target)
            up_reader, up_writer = await asyncio.open_connection(url.hostname, url.port)
            try:
                fields = "".join(f"{n}: {v}\r\n" for n, v in headers.items())
                up_writer.write(f"{method} {url.path} {version}\r\n{fields}\r\n".encode("latin-1"))
                up_writer.write(await reader.readexactly(int(headers["content-length"])))
                while piece := await up_reader.read(65536):
                    self.bytes_relayed += len(piece)
                    writer.write(piece)
                    await writer.drain()
            finally:
                up_writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # either side has gone; the other is told by the close
        finally:
            writer.close()
