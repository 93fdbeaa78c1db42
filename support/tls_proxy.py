"""TLS in front of a Redis: the bundled servers have none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trustme

from support.servers import Server


@asynccontextmanager
async def in_front_of(
    server: Server, authority: trustme.CA, name: str, *, asks: bool = False
) -> AsyncIterator[int]:
    """Speak TLS under a name's certificate, and pass on what is said. Yields the port.

    With `asks`, a client must show a certificate too.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    if asks:
        authority.configure_trust(tls)
        tls.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        redis_reader, redis_writer = await asyncio.open_unix_connection(server.socket)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, redis_writer))
                group.create_task(pump(redis_reader, writer))
        except* OSError:
            pass
        finally:
            redis_writer.close()
            writer.close()
            tasks.discard(task)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
