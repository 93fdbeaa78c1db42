"""A connection to Redis that bypasses the pool, for the paths that carry every chunk.

redis-py opens it: address, TLS, credentials. Then a `RawConnection` becomes the protocol of the
transport. It parses replies in the call that reads them from the socket, and writes a command to
the socket at once. So a chunk wakes no task, sets no timer and asks no pool, which would be most
of its cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError

Command: TypeAlias = tuple[str | bytes | float, ...]

_INCOMPLETE = object()
_pack: Callable[[Command], bytes] = cast(Any, hiredis.pack_command)


async def connect(pool: ConnectionPool) -> AbstractConnection:
    """Open a connection with a pool's options; the pool does not manage it.

    Raises what redis-py raises, and `TimeoutError` when a server accepts and never answers.
    """
    options = {**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
    connection = pool.connection_class(**options)
    async with asyncio.timeout(options["socket_timeout"]):
        await connection.connect()
    return connection


class RawConnection(asyncio.Protocol):
    """Sends commands and receives replies in order. An error of Redis is a reply too.

    `on_reply` must return at once and never raise. When the connection is lost, `lost` is set to
    the reason. The code that opened the connection closes it.
    """

    def __init__(self, connection: AbstractConnection, on_reply: Callable[[Any], None]) -> None:
        reader, writer = connection._reader, connection._writer
        if reader is None or writer is None:
            raise ConnectionError("not connected")
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._on_reply = on_reply
        self._replies = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_INCOMPLETE
        )
        self._transport = writer.transport
        self._transport.set_protocol(self)
        # A loss before this line was reported to the protocol that we have just replaced.
        if reader.at_eof() or self._transport.is_closing():
            self.fail(ConnectionError("the connection was lost"))

    def send(self, *commands: Command) -> None:
        """Send commands in one write. After a loss they are dropped."""
        if self._transport.is_closing():
            self.fail(ConnectionError("the connection was lost"))
        elif not self.lost.done():
            self._transport.write(b"".join(map(_pack, commands)))

    def fail(self, error: Exception) -> None:
        """Close the connection for a reason; only the first one counts."""
        if not self.lost.done():
            self.lost.set_result(error)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not _INCOMPLETE:
            self._on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(exc or ConnectionError("the connection was lost"))
