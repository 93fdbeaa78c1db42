"""How darkq connects to Redis: pooled, bounded, and patient with a server that restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError, TimeoutError

from darkq.errors import ConfigurationError, RedisUnavailable
from darkq.settings import Settings

# OSError is a refused connection, which redis-py does not retry unless told to.
UNAVAILABLE: tuple[type[Exception], ...] = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    OSError,
)

_REFUSALS = ("OOM", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "READONLY")

_RETRIES = 5
_BACKOFF_BASE_S = 0.05
_BACKOFF_CAP_S = 1.0


def pool(settings: Settings, *, retries: int = _RETRIES) -> BlockingConnectionPool:
    """Make a connection pool. Connects on first use.

    A call past the pool's size waits for a connection. Raises `ConfigurationError` for a URL
    that is none.
    """
    try:
        return BlockingConnectionPool.from_url(
            settings.find_redis_url(),
            max_connections=settings.redis_connections,
            timeout=None,
            socket_timeout=settings.redis_timeout_s,
            socket_connect_timeout=settings.redis_timeout_s,
            retry=Retry(ExponentialWithJitterBackoff(_BACKOFF_CAP_S, _BACKOFF_BASE_S), retries),
            retry_on_error=list(UNAVAILABLE),
        )
    except ValueError as error:
        raise ConfigurationError("DARKQ_REDIS_URL", str(error)) from None


@asynccontextmanager
async def speaking_darkq() -> AsyncIterator[None]:
    """Turn redis-py's errors of a server that is absent or refuses us into `RedisUnavailable`."""
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
