"""How darkq connects to Redis: pooled, bounded, and patient with a server that restarts."""

from __future__ import annotations

import asyncio
import builtins
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError, TimeoutError

from darkq.errors import ConfigurationError, RedisUnavailable
from darkq.settings import Settings

T = TypeVar("T")

# OSError is a refused connection, which redis-py does not retry unless told to.
UNAVAILABLE: tuple[type[Exception], ...] = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    OSError,
)

_REFUSALS = ("OOM", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "READONLY")

_PAUSE_MAX_S = 0.5


class _PatientRetry(Retry):
    """Tries again for some seconds, where redis-py's own counts its tries.

    A refused connection fails in no time, a silent one after the socket's timeout: only time
    says how long a caller has waited.
    """

    def __init__(self, patience_s: float) -> None:
        super().__init__(NoBackoff(), 0)
        self._patience_s = patience_s

    async def call_with_retry(
        self, do: Callable[[], Awaitable[T]], fail: Callable[[RedisError], Any]
    ) -> T:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._patience_s
        pause_s = 0.02
        while True:
            try:
                return await do()
            except UNAVAILABLE as error:
                await fail(cast(RedisError, error))
                if loop.time() >= give_up_s:
                    raise
                await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
                pause_s = min(_PAUSE_MAX_S, pause_s * 2)


class _CancellableWrites(AbstractConnection):
    """redis-py writes under `asyncio.wait_for`, which swallows a cancellation on Python 3.11.

    A task that is cancelled while it writes would go on as if nothing had been said: a timeout
    would not end it, and a worker would not stop.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        limit_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit_s):
                await super().send_packed_command(command, check_health)
        except builtins.TimeoutError:
            await self.disconnect(nowait=True)
            raise TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit_s


class _Tcp(_CancellableWrites, Connection): ...


class _Tls(_CancellableWrites, SSLConnection): ...


class _Unix(_CancellableWrites, UnixDomainSocketConnection): ...


_OURS = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


def pool(
    settings: Settings,
    *,
    patience_s: float | None = None,
    connections: int | None = None,
    on_connect: Callable[[AbstractConnection], Awaitable[None]] | None = None,
) -> BlockingConnectionPool:
    """Make a connection pool. Connects on first use.

    A call past the pool's size waits for a connection; one that finds Redis away tries again
    for `patience_s` seconds, by default `DARKQ_REDIS_PATIENCE_S`. `on_connect` takes the place
    of a new connection's own `on_connect`, and may refuse it by raising `ConnectionError`.
    Raises `ConfigurationError` for a URL that is none.
    """
    try:
        options: dict[str, Any] = {**parse_url(settings.find_redis_url())}
        made = BlockingConnectionPool(
            connection_class=_OURS[options.pop("connection_class", Connection)],
            max_connections=connections or settings.redis_connections,
            timeout=None,
            socket_timeout=settings.redis_timeout_s,
            socket_connect_timeout=settings.redis_timeout_s,
            retry=_PatientRetry(settings.redis_patience_s if patience_s is None else patience_s),
            retry_on_error=list(UNAVAILABLE),
            redis_connect_func=on_connect,
            **options,
        )
        made.make_connection()  # an unknown option shows here, not at first use
    except (ValueError, TypeError) as error:
        raise ConfigurationError("DARKQ_REDIS_URL", str(error)) from None
    return made


@asynccontextmanager
async def speaking_darkq() -> AsyncIterator[None]:
    """Turn errors of a server that is absent or refuses us into `RedisUnavailable`."""
    try:
        yield
    except UNAVAILABLE as error:
        raise RedisUnavailable(brief(error)) from error
    except RedisError as error:
        if str(error).startswith(_REFUSALS):
            raise RedisUnavailable(str(error)) from error
        raise


def brief(error: Exception) -> str:
    """Name an error without what it quotes: a server's reply may quote our arguments."""
    code = str(error).split(" ", 1)[0]
    return f"{type(error).__name__} {code}" if code.isupper() else type(error).__name__
