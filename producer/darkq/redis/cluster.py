"""Which server of a Redis Cluster has which slot.

Somebody is asked at first, and again when a server is gone or says that a slot is elsewhere.
What a node says may be out of date while a failover or a move of slots is under way; then those
who follow it are told so, and ask again.

Where a command of a cluster belongs, and what a server answers that cannot run it. No I/O.

MOVED  the key is elsewhere for good      ask who has what, go there
ASK    this key has been moved already    go there once, by special leave
TRYAGAIN, CLUSTERDOWN, and no answer      wait a moment, ask who has what, try again
NOREPLICAS, where that is minded          the same
"""

from __future__ import annotations

import asyncio
import random
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError, ResponseError

from darkq.errors import ConfigurationError
from darkq.redis import raw as line
from darkq.redis.connections import UNAVAILABLE, OneLoop
from darkq.redis.pool import pool, read_url
from darkq.redis.url import Address
from darkq.settings.settings import Settings

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
        self.settings = settings
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

    def owner(self, key: str) -> Address:
        """Return who had a key when somebody was asked last; see `Servers`."""
        return self._slots.owner(key) if self._slots else self._seeds[0]

    async def connect(self, owner: Address) -> AbstractConnection:
        """Open a connection of one's own; see `Servers`."""
        return await line.connect(pool(self.settings, at=owner))

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


ANYWHERE = ""
"""Stands for the key of a command that any server can answer."""

_KEYLESS = {"PING", "TIME", "INFO", "WAIT", "SCRIPT LOAD", "CONFIG GET"}
_SCRIPTS = {"EVAL", "EVALSHA"}
# In a transaction redis-py puts the command before the server's words.
_WORDS = re.compile(
    r"(?:^|caused error: \(')(MOVED|ASK|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|NOREPLICAS)\b"
    r"(?: \d+ (\S*):(\d+))?"
)


class Redirection(NamedTuple):
    """Why a server did not do what it was asked: a word, and who would."""

    word: str
    target: Address | None


def read_redirection(error: Exception, asked: Address) -> Redirection | None:
    """Tell what an error says of the cluster; None for any other error."""
    if isinstance(error, UNAVAILABLE):
        return Redirection("", None)
    found = _WORDS.search(str(error)) if isinstance(error, ResponseError) else None
    if found is None:
        return None
    word, host, port = found.groups()
    return Redirection(word, Address(host or asked.host, int(port)) if port else None)


def key_of(args: Sequence[Any]) -> str | bytes:
    """Return the first key of a command; none for what any server can answer."""
    name = str(args[0])
    if name in _SCRIPTS:
        return args[3]  # type: ignore[no-any-return]
    return ANYWHERE if name in _KEYLESS else args[1]


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key."""
    return key_slot(key if isinstance(key, bytes) else key.encode())
