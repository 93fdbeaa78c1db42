"""Each Redis server, and what it tells of itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from darkq import Settings
from darkq.redis.pool import read_url
from darkq.redis.servers import each_server, servers_of
from darkq_cli.doctor.findings import Refused, is_refusal


async def servers(settings: Settings) -> AsyncGenerator[tuple[str, Redis], None]:
    """Yield each server that holds darkq's data, with a name for people; replicas of a cluster too.

    Raises `ConfigurationError` when none is configured, or runs here.
    """
    redis = servers_of(settings).client(patience_s=0)
    try:
        for address, server in await _found(redis):
            yield address or _place(settings), server
    finally:
        await redis.aclose()


async def _found(redis: Redis) -> list[tuple[str, Redis]]:
    try:
        return await each_server(redis, replicas=True)
    except (RedisError, OSError):  # asking it anything will tell why
        return [("", redis)]


def _place(settings: Settings) -> str:
    url = read_url(settings)
    if url.kind == "server":
        options = url.options
        return str(options.get("path") or f"{options.get('host')}:{options.get('port')}")
    hosts = ", ".join(map(str, url.addresses))
    return f"{url.service} of {hosts}" if url.kind == "sentinel" else hosts


class _Told(dict[str, Any]):
    """What INFO says. Not every server says everything."""

    def __missing__(self, name: str) -> Any:
        raise Refused(f"INFO has no {name}")


class Server:
    """A server, and what it has said. What it is asked for twice it says once."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.settings = settings
        self._info: Mapping[str, Any] = {}
        self._config: dict[str, str] = {}

    @property
    def is_local(self) -> bool:
        """Whether it is reached by a unix socket."""
        return "path" in self.redis.connection_pool.connection_kwargs

    @property
    def user(self) -> str:
        """The name of the user that darkq is there."""
        return self.redis.connection_pool.connection_kwargs.get("username") or "default"

    async def info(self) -> Mapping[str, Any]:
        """Return INFO; looking up what it does not say raises `Refused`.

        Raises `Refused`, and what redis-py raises.
        """
        if not self._info:
            try:
                self._info = _Told(await self.redis.info())
            except ResponseError as error:
                raise _refused(error, "INFO") from error
        return self._info

    async def config(self, name: str) -> str:
        """Return one of the server's settings.

        Raises `Refused`, and what redis-py raises.
        """
        if not self._config:
            try:
                self._config = await self.redis.config_get("*")
            except ResponseError as error:
                raise _refused(error, "CONFIG GET") from error
        if name not in self._config:
            raise Refused(f"CONFIG GET has no {name}")
        return self._config[name]

    async def config_if_told(self, name: str) -> str | None:
        """Return the same, or None where it may not be asked."""
        try:
            return await self.config(name)
        except Refused:
            return None


def _refused(error: ResponseError, what: str) -> Exception:
    return Refused(f"{what} is forbidden") if is_refusal(error) else error
