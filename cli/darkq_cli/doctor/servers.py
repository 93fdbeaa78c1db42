"""The Redis servers, and what each reports of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from darkq import Settings
from darkq.redis.pool import read_url
from darkq.redis.servers import each_server, servers_of
from darkq_cli.doctor.checks import Refused, is_refusal

T = TypeVar("T")


@asynccontextmanager
async def open_servers(settings: Settings) -> AsyncIterator[list[tuple[str, Redis]]]:
    """Provide the address and a client of each server, including the replicas of a cluster.

    Raises `ConfigurationError` when none is configured, and no embedded one runs.
    """
    redis = servers_of(settings).client(patience_s=0)
    try:
        try:
            found = await each_server(redis, replicas=True)
        except (RedisError, OSError):  # the first check reports the error
            found = [("", redis)]
        yield [(address or _describe_address(settings), server) for address, server in found]
    finally:
        await redis.aclose()


def _describe_address(settings: Settings) -> str:
    url = read_url(settings)
    if url.kind == "server":
        options = url.options
        return str(options.get("path") or f"{options.get('host')}:{options.get('port')}")
    hosts = ", ".join(map(str, url.addresses))
    return f"{url.service} of {hosts}" if url.kind == "sentinel" else hosts


class _Info(dict[str, Any]):
    """The fields of INFO. A missing field raises `Refused`, since servers differ."""

    def __missing__(self, name: str) -> Any:
        raise Refused(f"INFO has no {name}")


class Server:
    """A server, with its INFO and settings, each read once."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.settings = settings
        self._info: Mapping[str, Any] = {}
        self._config: dict[str, str] = {}

    @property
    def is_local(self) -> bool:
        """Whether the connection is a unix socket."""
        return "path" in self.redis.connection_pool.connection_kwargs

    @property
    def user(self) -> str:
        """The name of the user of the connection."""
        return self.redis.connection_pool.connection_kwargs.get("username") or "default"

    async def info(self) -> Mapping[str, Any]:
        """Return INFO. Looking up a field that it does not have raises `Refused`.

        Raises `Refused`, and what redis-py raises.
        """
        if not self._info:
            self._info = _Info(await _ask("INFO", self.redis.info()))
        return self._info

    async def config(self, name: str) -> str:
        """Return one of the server's settings.

        Raises `Refused`, and what redis-py raises.
        """
        if not self._config:
            self._config = await _ask("CONFIG GET", self.redis.config_get("*"))
        if name not in self._config:
            raise Refused(f"CONFIG GET has no {name}")
        return self._config[name]

    async def config_or_none(self, name: str) -> str | None:
        """Return a setting of the server, or None if it refuses."""
        try:
            return await self.config(name)
        except Refused:
            return None


async def _ask(what: str, reply: Awaitable[T]) -> T:
    try:
        return await reply
    except ResponseError as error:
        if is_refusal(error):
            raise Refused(f"{what} is forbidden") from error
        raise
