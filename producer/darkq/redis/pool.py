"""Connection pools: bounded, and with retries while a server restarts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, SSLConnection
from redis.exceptions import BusyLoadingError, OutOfMemoryError, RedisError, ResponseError

from darkq.errors import ConfigurationError, DarkqError, RedisFull, RedisUnavailable
from darkq.redis.connect_errors import CannotConnect
from darkq.redis.connections import OURS, UNAVAILABLE, OneLoop, PatientRetry, is_away
from darkq.redis.sentinel import TO_MASTER, Sentinels
from darkq.redis.url import Address, RedisUrl, WrongOption, parse
from darkq.settings.settings import Settings

# In a pipeline redis-py puts the command before the server's words.
_ELSEWHERE = re.compile(r"(?:^|caused error: \(')(MOVED|CROSSSLOT)\b")
_NO_URL = (
    "is no Redis URL: redis://, rediss:// or unix://, a password percent-encoded; "
    "redis+sentinel://host,host/service or redis+cluster://host,host"
)
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
ONE_OF_A_CLUSTER = "names one server of a cluster: redis+cluster:// instead of redis://"


def read_url(settings: Settings) -> RedisUrl:
    """Parse the URL of the settings. Raises `ConfigurationError`."""
    try:
        return parse(settings.find_redis_url())
    except WrongOption as error:
        raise ConfigurationError("DARKQ_REDIS_URL", str(error)) from None
    except ValueError:  # its text may quote part of a password, as an invalid port
        raise ConfigurationError("DARKQ_REDIS_URL", _NO_URL) from None


class _Pool(BlockingConnectionPool):
    loop: OneLoop

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        self.loop.check()
        return await super().get_connection(*args, **options)


def pool(
    settings: Settings,
    *,
    loop: OneLoop | None = None,
    at: Address | None = None,
    sentinels: Sentinels | None = None,
    patience_s: float | None = None,
    connections: int | None = None,
) -> BlockingConnectionPool:
    """Make a pool of connections to a server: the one of the settings, or a node of a cluster.

    Connects on first use. A call waits while all connections are in use. When Redis cannot be
    reached, it tries again for `patience_s` seconds, by default `DARKQ_REDIS_PATIENCE_S`. A call
    from a second event loop raises `RuntimeError`. Pools with the same `sentinels` all follow
    a new master. Raises `ConfigurationError` for an invalid URL.
    """
    url = read_url(settings)
    options = dict(url.options)
    if url.connection_class is SSLConnection:
        # By default redis-py accepts a certificate of any host.
        options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
    for name in _FILES:
        if name in options and not Path(options[name]).exists():
            raise ConfigurationError("DARKQ_REDIS_URL", f"has {name}, but the file does not exist")
    kind = OURS[url.connection_class]
    if at is not None:
        options.update(host=at.host, port=at.port)
    elif url.kind == "sentinel":
        kind = TO_MASTER[url.connection_class]
        options["sentinels"] = sentinels or Sentinels(url)
    try:
        made = _Pool(
            connection_class=kind,
            max_connections=connections or settings.redis_connections,
            timeout=None,
            socket_timeout=settings.redis_timeout_s,
            socket_connect_timeout=settings.redis_timeout_s,
            retry=PatientRetry(settings.redis_patience_s if patience_s is None else patience_s),
            retry_on_error=list(UNAVAILABLE),
            **options,
        )
        made.loop = loop or OneLoop()
        cast(Any, made).make_connection()  # an unknown option shows here, not at first use
    except (TypeError, ValueError, RedisError) as error:
        named = re.search(r"argument '(\w{1,40})'", str(error))  # the option, without its value
        reason = f"has an unknown option: {named[1]}" if named else "has invalid options"
        raise ConfigurationError("DARKQ_REDIS_URL", reason) from None
    return made


@asynccontextmanager
async def speaking_darkq() -> AsyncIterator[None]:
    """Turn errors of redis-py into darkq's, most of them into `RedisUnavailable`.

    A single server that turns out to belong to a cluster raises `ConfigurationError`.
    """
    try:
        yield
    except DarkqError:  # some of them are an OSError too
        raise
    except (RedisError, OSError) as error:
        if isinstance(error, CannotConnect):
            reason = error.cause.replace("_", " ")
            message = f"{error}; check DARKQ_REDIS_URL"
            raise RedisUnavailable(reason, message, code=error.cause) from error
        if isinstance(error, RedisError) and not is_away(error):
            if isinstance(error, OutOfMemoryError) or "-OOM " in str(error):
                raise RedisFull from error
            if _ELSEWHERE.search(str(error)):
                raise ConfigurationError("DARKQ_REDIS_URL", ONE_OF_A_CLUSTER) from None
        raise _describe_refusal(error) from error


_REFUSALS = {
    "MISCONF": "Redis refuses writes, because it cannot save its data (MISCONF){detail}; check the "
    "free disk space of its host",
    "READONLY": "Redis is a replica and refuses writes (READONLY); DARKQ_REDIS_URL must name the "
    "master",
    "NOPERM": "the Redis user may not run a command or use a key of darkq (NOPERM); darkq doctor "
    "says which",
    "NOREPLICAS": "Redis refuses writes, because it has too few replicas (NOREPLICAS)",
    "LOADING": "Redis is still loading its data (LOADING)",
    "BUSY": "Redis runs a script that does not end (BUSY)",
}
_SAID = re.compile(rf"(?:^|-|caused error: \(')({'|'.join(_REFUSALS)})\b")
_DISK = re.compile(r"writing to the AOF file: ([A-Za-z ]{1,60})")


def _describe_refusal(error: Exception) -> RedisUnavailable:
    """Return what an error means. Redis 6 wraps what a command said to a script."""
    text = str(error)
    code = "LOADING" if isinstance(error, BusyLoadingError) else ""
    if not code and isinstance(error, ResponseError) and (found := _SAID.search(text)):
        code = found[1]
    if code not in _REFUSALS:
        return RedisUnavailable(brief(error))
    disk = _DISK.search(text)
    detail = f": {disk[1].strip().lower()}" if disk else ""
    return RedisUnavailable(code, _REFUSALS[code].format(detail=detail), code=code.lower())


def is_wrong_type(error: BaseException) -> bool:
    """Return True if a key holds a value of another type, so darkq did not write it."""
    return isinstance(error, RedisError) and "WRONGTYPE" in str(error)


def brief(error: BaseException) -> str:
    """Name an error by its class and code. Its text may quote our arguments, so it is left out.

    The text of `CannotConnect` quotes none.
    """
    if isinstance(error, CannotConnect):
        return str(error)
    code = str(error).split(" ", 1)[0] if isinstance(error, RedisError) else ""
    return f"{type(error).__name__} {code}" if code.isupper() else type(error).__name__
