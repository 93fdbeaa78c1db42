"""Redis as darkq uses it: one server, or a cluster with the partitions spread over its servers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TypeAlias

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from darkq.redis import raw
from darkq.redis.cluster import Cluster
from darkq.redis.cluster_client import ClusterRedis
from darkq.redis.connections import OneLoop
from darkq.redis.durability import WaitingRedis, rule_of
from darkq.redis.pool import pool, read_url
from darkq.redis.sentinel import Sentinels
from darkq.redis.url import Address
from darkq.settings.settings import Settings

SCAN_KEYS = 500
ONE = Address("", 0)
"""The owner of every key if there is only one server, whatever its address."""


class OneServer:
    """A server whose address is known, or the master that the Sentinels name.

    `loop` is the event loop that all connections belong to.
    """

    is_cluster = False

    def __init__(self, settings: Settings) -> None:
        self.loop = OneLoop()
        self._settings = settings
        url = read_url(settings)
        self._sentinels = Sentinels(url) if url.kind == "sentinel" else None
        self._template = pool(settings, sentinels=self._sentinels)

    def client(self, *, patience_s: float | None = None, connections: int | None = None) -> Redis:
        """Return a client with connections of its own, which the caller closes.

        A call that cannot reach Redis is tried again for `patience_s` seconds, by default
        `DARKQ_REDIS_PATIENCE_S`. The client opens at most `connections` to a server, by default
        `DARKQ_REDIS_CONNECTIONS`.
        """
        made = pool(
            self._settings,
            loop=self.loop,
            sentinels=self._sentinels,
            patience_s=patience_s,
            connections=connections,
        )
        return WaitingRedis.waiting(made, rule_of(self._settings))

    def owner(self, key: str) -> Address:
        """Return the server of a key, without I/O. May be out of date."""
        return ONE

    async def connect(self, owner: Address) -> AbstractConnection:
        """Open a connection to a server, which the caller closes. Raises what redis-py raises."""
        return await raw.connect(self._template)

    async def know(self) -> None:
        """Find out which server has which key, if unknown. Raises what redis-py raises.

        Does nothing here: connecting finds the server.
        """

    async def look_again(self) -> None:
        """Find it out anew, after a server was lost. Raises what redis-py raises."""


class ClusterServers(Cluster):
    """The servers of a Redis Cluster, with the methods of `OneServer`."""

    def client(self, *, patience_s: float | None = None, connections: int | None = None) -> Redis:
        patience_s = self.settings.redis_patience_s if patience_s is None else patience_s
        return ClusterRedis(self, self.settings, patience_s=patience_s, connections=connections)


Servers: TypeAlias = OneServer | ClusterServers
"""Which server has a key, and how to connect to it."""


async def each_server(redis: Redis, *, replicas: bool = False) -> list[tuple[str, Redis]]:
    """Return a client for each server, with its address; a single server has an empty one.

    With `replicas` the replicas of a cluster are included. Raises what redis-py raises.
    """
    if not isinstance(redis, ClusterRedis):
        return [("", redis)]
    return [(str(each), redis.node(each)) for each in await redis.addresses(replicas=replicas)]


async def scan_pages(redis: Redis, pattern: str) -> AsyncGenerator[list[bytes], None]:
    """Yield the keys that match a pattern, of every server, in no order, some of them twice.

    A page has at most `SCAN_KEYS`. Raises what redis-py raises.
    """
    page: list[bytes] = []
    for _, server in await each_server(redis):
        async for name in server.scan_iter(pattern, count=SCAN_KEYS):
            page.append(name)
            if len(page) == SCAN_KEYS:
                yield page
                page = []
    if page:
        yield page


async def read_clock_ms(redis: Redis) -> float:
    """Return the time of Redis, epoch milliseconds. Scores and leases go by this clock."""
    return clock_ms(await redis.time())


def clock_ms(reply: tuple[int, int]) -> float:
    """Return the reply of `TIME` as epoch milliseconds."""
    seconds, micros = reply
    return seconds * 1000 + micros / 1000


def servers_of(settings: Settings) -> Servers:
    """Return the Redis of the settings, without connecting. Raises `ConfigurationError`."""
    kind = read_url(settings).kind
    return ClusterServers(settings) if kind == "cluster" else OneServer(settings)
