"""Redis as a program sees it: one server, or those of a cluster among whom the partitions are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from darkq.redis import raw as line
from darkq.redis.cluster import Cluster
from darkq.redis.cluster_client import ClusterRedis
from darkq.redis.connections import OneLoop
from darkq.redis.durability import WaitingRedis, rule_of
from darkq.redis.pool import pool, read_url
from darkq.redis.sentinel import Sentinels
from darkq.redis.url import Address
from darkq.settings.settings import Settings

ONE = Address("", 0)
"""The owner of everything where there is one server, wherever that is."""


class Servers(Protocol):
    """What darkq needs to know of Redis, and how to reach it."""

    @property
    def loop(self) -> OneLoop:
        """The event loop that all connections belong to."""
        ...

    @property
    def is_cluster(self) -> bool:
        """Tell whether keys are spread over servers, by their slots."""
        ...

    def client(self, *, patience_s: float | None = None, connections: int | None = None) -> Redis:
        """Return a client that has connections of its own; whoever asked closes it.

        A call that finds Redis away is tried again for `patience_s` seconds, by default
        `DARKQ_REDIS_PATIENCE_S`; a server has `connections` at most, `DARKQ_REDIS_CONNECTIONS`.
        """
        ...

    def owner(self, key: str) -> Address:
        """Return who has a key, as far as is known. Asks nobody, and may be out of date."""
        ...

    async def connect(self, owner: Address) -> AbstractConnection:
        """Open a connection to a server, which the caller closes. Raises what redis-py raises."""
        ...

    async def know(self) -> None:
        """Ask who has what, unless that is known. Raises what redis-py raises."""
        ...

    async def look_again(self) -> None:
        """Ask who has what, after a server was lost. Raises what redis-py raises."""
        ...


class OneServer:
    """A server whose address is known, or whichever Sentinels call the master."""

    is_cluster = False

    def __init__(self, settings: Settings) -> None:
        self.loop = OneLoop()
        self._settings = settings
        url = read_url(settings)
        self._sentinels = Sentinels(url) if url.kind == "sentinel" else None
        self._template = pool(settings, sentinels=self._sentinels)

    def client(
        self, *, patience_s: float | None = None, connections: int | None = None
    ) -> WaitingRedis:
        made = pool(
            self._settings,
            loop=self.loop,
            sentinels=self._sentinels,
            patience_s=patience_s,
            connections=connections,
        )
        return WaitingRedis.waiting(made, rule_of(self._settings))

    def owner(self, key: str) -> Address:
        return ONE

    async def connect(self, owner: Address) -> AbstractConnection:
        return await line.connect(self._template)

    async def know(self) -> None:
        """Nothing: connecting finds the server."""

    async def look_again(self) -> None:
        """Nothing: connecting finds the server."""


class ClusterServers(Cluster):
    """The servers of a Redis Cluster."""

    def client(
        self, *, patience_s: float | None = None, connections: int | None = None
    ) -> ClusterRedis:
        patience_s = self.settings.redis_patience_s if patience_s is None else patience_s
        return ClusterRedis(self, self.settings, patience_s=patience_s, connections=connections)


async def each_server(redis: Redis, *, replicas: bool = False) -> list[tuple[str, Redis]]:
    """Return all servers that a client speaks to, with their addresses; alone, it has none.

    With `replicas` those of a cluster are among them. Raises what redis-py raises.
    """
    if not isinstance(redis, ClusterRedis):
        return [("", redis)]
    return [(str(each), redis.node(each)) for each in await redis.addresses(replicas=replicas)]


async def scan(redis: Redis, pattern: str, *, count: int) -> AsyncGenerator[bytes, None]:
    """Yield the keys like a pattern, of every server, in no order, some of them twice.

    `count` is how many keys a server looks at in one step. Raises what redis-py raises.
    """
    for _, server in await each_server(redis):
        async for name in server.scan_iter(pattern, count=count):
            yield name


def servers_of(settings: Settings) -> Servers:
    """Return the Redis of the settings, without asking it. Raises `ConfigurationError`."""
    kind = read_url(settings).kind
    return ClusterServers(settings) if kind == "cluster" else OneServer(settings)
