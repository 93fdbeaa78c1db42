"""A connection to Redis spoken to directly, for the paths that carry every chunk.

redis-py opens it: the address, TLS, who we are. Then a `Line` takes the transport over. A reply
reaches its owner within the call that takes it off the socket, and a command goes to the socket
as it is: no task is woken, no timer set, no pool asked. That is most of what a chunk would cost.
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
    """Open a connection as a pool would, which the pool then knows nothing of.

    Raises what redis-py raises, and `TimeoutError` when a server accepts and never answers.
    """
    options = {**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
    connection = pool.connection_class(**options)
    async with asyncio.timeout(options["socket_timeout"]):
        await connection.connect()
    return connection


class Line(asyncio.Protocol):
    """Commands out, replies in, in order; an error that Redis replies with is a reply too.

    `on_reply` must return at once and never raise. `lost` becomes the reason when the connection
    is gone. Whoever opened the connection closes it.
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
        if reader.at_eof() or self._transport.is_closing():  # said to whom we relieve
            self.fail(ConnectionError("the connection was lost"))

    def send(self, *commands: Command) -> None:
        """Send commands in one piece. On a line that is lost they go nowhere."""
        if self._transport.is_closing():
            self.fail(ConnectionError("the connection was lost"))
        elif not self.lost.done():
            self._transport.write(b"".join(map(_pack, commands)))

    def fail(self, error: Exception) -> None:
        """Give the line up, for a reason."""
        if not self.lost.done():
            self.lost.set_result(error)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not _INCOMPLETE:
            self._on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(exc or ConnectionError("the connection was lost"))
