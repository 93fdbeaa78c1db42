"""redis-py's connections, with retries while a server restarts, and cancellable.

Connections belong to one event loop. `OneLoop` raises at once when another loop uses them. Without
it asyncio notices late or not at all: a call from a second loop hangs, or every other call fails.
"""

from __future__ import annotations

import asyncio
import builtins
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar, cast

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from darkq.redis.backoff import backoff_s
from darkq.redis.connect_errors import (
    TLS_DOUBT_S,
    CannotConnect,
    describe_address,
    explain,
    speaks_plain,
    speaks_tls,
)

T = TypeVar("T")

# OSError is a refused connection, which redis-py does not retry by default.
UNAVAILABLE: tuple[type[Exception], ...] = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    OSError,
)

# Replies of a server that can serve no client now. In a pipeline redis-py puts the command before
# the server's words.
_AWAY = re.compile(r"(?:^|caused error: \(')(BUSY|LOADING|MASTERDOWN|TRYAGAIN|CLUSTERDOWN)\b")

_PAUSE_S = 0.02
_PAUSE_MAX_S = 0.5
_WRITE_BUFFER_BYTES = 64 << 10

_serializer = HiredisRespSerializer()


def is_away(error: BaseException) -> bool:
    """Return True for an error that ends by itself: the server cannot be reached, or is busy."""
    if isinstance(error, ResponseError):
        return _AWAY.search(str(error)) is not None
    return isinstance(error, UNAVAILABLE)


class PatientRetry(Retry):
    """Tries again for some seconds, where redis-py's own counts its tries.

    A count would not bound the wait: a refused connection fails at once, an unresponsive one only
    after the socket's timeout. A cause that a person has to correct, as a wrong password, is raised
    at once if no connection of the pool has succeeded before. If one has, the cause may pass: the
    name of a container is unknown while it restarts.
    """

    has_connected = False

    def __init__(self, patience_s: float) -> None:
        super().__init__(NoBackoff(), 0)
        self._patience_s = patience_s

    def __deepcopy__(self, _: object) -> Self:
        """Return this object: redis-py copies it for each connection of a pool."""
        return self

    async def call_with_retry(
        self, do: Callable[[], Awaitable[T]], fail: Callable[[RedisError], Any]
    ) -> T:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._patience_s
        pauses = 0
        while True:
            try:
                return await do()
            except (RedisError, OSError) as error:
                is_lasting = isinstance(error, CannotConnect) and error.is_lasting
                if not is_away(error) or (is_lasting and not self.has_connected):
                    raise
                if not isinstance(error, ResponseError):  # which leaves the connection usable
                    await fail(cast(RedisError, error))
                if loop.time() >= give_up_s:
                    raise
                await asyncio.sleep(backoff_s(pauses, first_s=_PAUSE_S, most_s=_PAUSE_MAX_S))
                pauses += 1


class Cancellable(AbstractConnection):
    """Fixes cancellation: on Python 3.11 redis-py loses it in two places that every call passes.

    It writes under `asyncio.wait_for`, and looks for unread data under a timeout of zero. A task
    that is cancelled there continues as if it were not. So a timeout does not end the call, and a
    worker does not stop.
    """

    async def can_read_destructive(self) -> bool:
        reader = self._reader
        if reader is None or reader.at_eof():
            raise ConnectionError("Connection closed by server.")
        return bool(getattr(reader, "_buffer", None))

    def pack_command(self, *args: Any) -> list[bytes]:
        """Encode in C: redis-py's own, in Python, took half of a bulk call's time."""
        packed: list[bytes] = _serializer.pack(*args)
        return packed

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        writer = self._writer
        if (
            writer is None
            or self.health_check_interval
            or isinstance(command, bytes | str)
            or writer.transport.is_closing()
        ):
            await self._send_slowly(command, check_health)
        else:  # a write that cannot block needs no timer and no turn of the event loop
            try:
                writer.write(b"".join(command))
            except RuntimeError:  # uvloop's word for a connection that was reset
                await self.disconnect(nowait=True)
                raise ConnectionError("the connection was lost") from None
            if writer.transport.get_write_buffer_size() > _WRITE_BUFFER_BYTES:
                await self._send_slowly(b"", check_health)

    async def _send_slowly(
        self, command: bytes | str | Iterable[bytes], check_health: bool
    ) -> None:
        """Connect first if necessary, and wait until the buffer has room again."""
        limit_s, self.socket_timeout = self.socket_timeout, None
        writer = self._writer
        try:
            async with asyncio.timeout(limit_s):
                await super().send_packed_command(command, check_health)
        except builtins.TimeoutError:
            await self.disconnect(nowait=True)
            raise TimeoutError("Timeout writing to socket") from None
        except RuntimeError:  # uvloop's word for a connection that was reset
            if writer is None or not writer.transport.is_closing():
                raise
            raise ConnectionError("the connection was lost") from None
        finally:
            self.socket_timeout = limit_s


class PatientHandshake(Cancellable):
    """Retries the handshake too; redis-py retries only the connect. Raises `CannotConnect`.

    A connection may be lost in between when a server stops, or behind a proxy without a server.
    """

    async def connect(self) -> None:
        await self.retry.call_with_retry(self._try, lambda _: self.disconnect(nowait=True))
        if isinstance(self.retry, PatientRetry):
            self.retry.has_connected = True

    async def _try(self) -> None:
        try:
            await super().connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            found = explain(error, describe_address(self))
            if found is None:
                raise
            is_plain = not isinstance(self, SSLConnection | UnixDomainSocketConnection)
            if found.cause == "connection_closed" and is_plain and await self._ask(speaks_tls):
                found = CannotConnect("tls_required", found.where)
            raise found from None

    async def _connect(self) -> None:
        """Connect, and complete a TLS handshake; redis-py would lose the cause of a failure."""
        try:
            if isinstance(self, SSLConnection) and self._is_first:
                await self._connect_or_probe()
            else:
                await super()._connect()  # type: ignore[safe-super, no-untyped-call]
        except (RedisError, OSError) as error:
            found = explain(error, describe_address(self))
            if found is None:
                raise
            if found.cause == "tls_failed" and await self._ask(speaks_plain):
                found = CannotConnect("tls_unsupported", found.where)
            raise found from None

    async def _connect_or_probe(self) -> None:
        """Connect with TLS. If that takes long, ask whether the server speaks without TLS."""
        connect = super()._connect()  # type: ignore[safe-super, no-untyped-call]
        connecting = asyncio.ensure_future(connect)
        try:
            done, _ = await asyncio.wait([connecting], timeout=TLS_DOUBT_S)
            if not done and await self._ask(speaks_plain):
                raise CannotConnect("tls_unsupported", describe_address(self))
            await connecting
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)

    @property
    def _is_first(self) -> bool:
        """Whether no connection of the pool has succeeded yet."""
        return isinstance(self.retry, PatientRetry) and not self.retry.has_connected

    async def _ask(self, probe: Callable[[str, int], Awaitable[bool]]) -> bool:
        """Probe the server in the other language, at the first connection of the pool."""
        host, port = getattr(self, "host", None), getattr(self, "port", None)
        if not self._is_first or host is None or port is None:
            return False
        return await probe(host, int(port))


# redis-py's abstract `repr_pieces` is typed as returning None, its own classes' is not.
class Tcp(PatientHandshake, Connection):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


class Tls(PatientHandshake, SSLConnection):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


class Unix(  # pyright: ignore[reportIncompatibleMethodOverride]
    PatientHandshake, UnixDomainSocketConnection
):
    pass


OURS = {Connection: Tcp, SSLConnection: Tls, UnixDomainSocketConnection: Unix}


class OneLoop:
    """Belongs to the loop that uses it first."""

    def __init__(self) -> None:
        self._first: dict[None, asyncio.AbstractEventLoop] = {}

    def check(self) -> None:
        """Raise `RuntimeError` in any loop but the first, also when that one is over."""
        loop = asyncio.get_running_loop()
        if self._first.setdefault(None, loop) is not loop:  # one step: threads may race for it
            raise RuntimeError(
                "this Client belongs to another event loop, the one that used it first: make a "
                "Client in each loop, or use darkq.sync.Client, which any thread may call"
            )
