"""Which server of a Redis Cluster has which slot.

Somebody is asked at first, and again when a server is gone or says that a slot is elsewhere.
What a node says may be out of date while a failover or a move of slots is under way; then those
who follow it are told so, and ask again.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, RedisError, ResponseError

from darkq import line
from darkq.cluster_redis import ClusterRedis
from darkq.connection import pool, read_url
from darkq.errors import ConfigurationError
from darkq.one_loop import OneLoop
from darkq.redirection import slot_of
from darkq.redis_url import Address
from darkq.settings import Settings

_ASK_TIMEOUT_S = 1.0


class Slots:
    """Who has which slot, as a node told it. What is told later is another object."""

    def __init__(self, ranges: Sequence[tuple[int, Address]], nodes: Iterable[Address]) -> None:
        """Take where ranges begin, in order, with their owners; and all nodes, replicas too."""
        self._starts = [start for start, _ in ranges]
        self._owners = [owner for _, owner in ranges]
        self.nodes = frozenset(nodes)
        self.masters = sorted(set(self._owners))

    def owner(self, key: str | bytes) -> Address:
        """Return who has a key. Of a slot that nobody has, some server, which will say so."""
        return self._owners[max(0, bisect_right(self._starts, slot_of(key)) - 1)]


class Cluster:
    """A Redis Cluster, and what is known of it. Asks on first use."""

    is_cluster = True

    def __init__(self, settings: Settings) -> None:
        self.loop = OneLoop()
        self._settings = settings
        self._seeds = read_url(settings).addresses
        self._slots: Slots | None = None
        self._one_at_a_time = asyncio.Lock()

    async def slots(self, *, but: Slots | None = None, hint: Address | None = None) -> Slots:
        """Return who has which slot; ask, if nothing is known, or nothing but what is out of date.

        `hint` is who is asked first. Raises `ConnectionError` when no node answers, and
        `ConfigurationError` for servers that are no cluster.
        """
        self.loop.check()
        if self._slots is None or self._slots is but:
            async with self._one_at_a_time:
                if self._slots is None or self._slots is but:
                    self._slots = await self._ask_anybody(hint)
        return self._slots

    def client(
        self, *, patience_s: float | None = None, connections: int | None = None
    ) -> ClusterRedis:
        """Return a client; see `Servers`."""
        patience_s = self._settings.redis_patience_s if patience_s is None else patience_s
        return ClusterRedis(self, self._settings, patience_s=patience_s, connections=connections)

    def owner(self, key: str) -> Address:
        """Return who had a key when somebody was asked last; see `Servers`."""
        return self._slots.owner(key) if self._slots else self._seeds[0]

    async def connect(self, owner: Address) -> AbstractConnection:
        """Open a connection of one's own; see `Servers`."""
        return await line.connect(pool(self._settings, at=owner))

    async def know(self) -> None:
        """Ask who has which slot, unless that is known; see `Servers`."""
        await self.slots()

    async def look_again(self) -> None:
        """Ask who has which slot; see `Servers`."""
        await self.slots(but=self._slots)

    async def _ask_anybody(self, hint: Address | None) -> Slots:
        known = {*self._seeds, *(self._slots.nodes if self._slots else ())} - {hint}
        others = random.sample(sorted(known), len(known))
        for address in [hint, *others] if hint else others:
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    slots = await self._ask(address)
            except ResponseError as error:
                if "cluster support disabled" in str(error):
                    reason = f"names a cluster, and {address} is none: redis://{address}?"
                    raise ConfigurationError("DARKQ_REDIS_URL", reason) from None
                continue
            except (RedisError, OSError):  # a timeout is an OSError
                continue
            if slots is not None:
                return slots
        raise ConnectionError("no node of the cluster answers")

    async def _ask(self, address: Address) -> Slots | None:
        connection = await self.connect(address)
        try:
            await connection.send_command("CLUSTER", "SLOTS")
            return read_slots(await connection.read_response() or (), address)
        finally:
            await connection.disconnect(nowait=True)


def read_slots(reply: Sequence[Any], asked: Address) -> Slots | None:
    """Read what `CLUSTER SLOTS` tells; None when nobody has any slot."""
    ranges, nodes = [], set()
    for start, _, *servers in reply:
        # A node that does not know its own name leaves it out, or says `?`.
        found = [
            Address(name.decode() if name and name != b"?" else asked.host, int(port))
            for name, port, *_ in servers
        ]
        ranges.append((int(start), found[0]))
        nodes.update(found)
    return Slots(sorted(ranges), nodes) if ranges else None
