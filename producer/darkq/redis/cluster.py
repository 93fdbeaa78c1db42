"""The slot map of a Redis Cluster, and how to react to a redirection.

A node is asked for the map on first use, and again when a server is lost or redirects a call. The
map of a node may be out of date during a failover or a migration of slots. Then a server that the
map names redirects the call once more, and the map is read again.

reply                            meaning                              reaction
MOVED                            another server has the slot          read the map, go there
ASK                              the slot is in migration, and this   go there once, with ASKING
                                 key has arrived at the target
TRYAGAIN, CLUSTERDOWN, no reply  the slot cannot be used now          pause, read the map, try again
NOREPLICAS, MASTERDOWN           this server must not be used now     the same
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
from redis.exceptions import RedisError, ResponseError

from darkq.errors import ConfigurationError
from darkq.redis import raw
from darkq.redis.connect_errors import CannotConnect
from darkq.redis.connections import UNAVAILABLE, OneLoop
from darkq.redis.pool import pool, read_url
from darkq.redis.url import Address
from darkq.settings.settings import Settings

_ASK_TIMEOUT_S = 1.0


class Slots:
    """An immutable slot map: the owner of each slot, as one node reported it."""

    def __init__(self, ranges: Sequence[tuple[int, Address]], nodes: Iterable[Address]) -> None:
        """Take the first slot and the owner of each range, sorted; and all nodes with replicas."""
        self._starts = [start for start, _ in ranges]
        self._owners = [owner for _, owner in ranges]
        self.nodes = frozenset(nodes)
        self.masters = sorted(set(self._owners))

    def owner(self, key: str | bytes) -> Address:
        """Return the server of a key. For an unassigned slot any server: it will redirect."""
        return self._owners[max(0, bisect_right(self._starts, slot_of(key)) - 1)]


class Cluster:
    """A Redis Cluster and its current slot map, which is read on first use."""

    is_cluster = True

    def __init__(self, settings: Settings) -> None:
        self.loop = OneLoop()
        self.settings = settings
        self._seeds = read_url(settings).addresses
        self._slots: Slots | None = None
        self._one_at_a_time = asyncio.Lock()

    async def slots(self, *, but: Slots | None = None, hint: Address | None = None) -> Slots:
        """Return the slot map. Read it anew if there is none, or only the outdated one in `but`.

        The node `hint` is asked first. Raises `ConnectionError` when no node answers, and
        `ConfigurationError` for servers that are no cluster.
        """
        self.loop.check()
        if self._slots is None or self._slots is but:
            async with self._one_at_a_time:
                # Checked again: calls that failed together wait here, and one of them has read it.
                if self._slots is None or self._slots is but:
                    self._slots = await self._ask_nodes(hint)
        return self._slots

    def owner(self, key: str) -> Address:
        """Return the server of a key by the current map; see `OneServer`."""
        return self._slots.owner(key) if self._slots else self._seeds[0]

    async def connect(self, owner: Address) -> AbstractConnection:
        """Open a connection to a server; see `OneServer`."""
        return await raw.connect(pool(self.settings, at=owner))

    async def know(self) -> None:
        """Read the slot map if there is none; see `OneServer`."""
        await self.slots()

    async def look_again(self) -> None:
        """Read the slot map anew; see `OneServer`."""
        await self.slots(but=self._slots)

    async def _ask_nodes(self, hint: Address | None) -> Slots:
        known = {*self._seeds, *(self._slots.nodes if self._slots else ())} - {hint}
        others = random.sample(sorted(known), len(known))
        asked = [hint, *others] if hint else others
        lasting: CannotConnect | None = None
        for address in asked:
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    slots = await self._ask(address)
            except ResponseError as error:
                if "cluster support disabled" in str(error):
                    reason = f"names a cluster, and {address} is none: redis://{address}?"
                    raise ConfigurationError("DARKQ_REDIS_URL", reason) from None
                continue
            except (RedisError, OSError) as error:  # a timeout is an OSError
                if isinstance(error, CannotConnect) and error.is_lasting:
                    lasting = error
                continue
            if slots is not None:
                return slots
        raise lasting or CannotConnect("no_node", ", ".join(map(str, asked)))

    async def _ask(self, address: Address) -> Slots | None:
        connection = await self.connect(address)
        try:
            await connection.send_command("CLUSTER", "SLOTS")
            return read_slots(await connection.read_response() or (), address)
        finally:
            await connection.disconnect(nowait=True)


def read_slots(reply: Sequence[Any], asked: Address) -> Slots | None:
    """Read the reply to `CLUSTER SLOTS`; None if no slot is assigned."""
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
"""The key of a command that any server can answer."""

_KEYLESS = {"PING", "TIME", "INFO", "WAIT", "SCRIPT LOAD", "CONFIG GET"}
_SCRIPTS = {"EVAL", "EVALSHA"}
# In a transaction redis-py puts the command before the server's words.
_WORDS = re.compile(
    r"(?:^|caused error: \(')(MOVED|ASK|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|NOREPLICAS)\b"
    r"(?: \d+ (\S*):(\d+))?"
)


class Redirection(NamedTuple):
    """Why a server did not run a command: the first word of its error, and the server named."""

    word: str
    target: Address | None


def read_redirection(error: Exception, asked: Address) -> Redirection | None:
    """Return the redirection that an error contains, with an empty word for a lost connection.

    Returns None for any other error.
    """
    if isinstance(error, UNAVAILABLE):
        return Redirection("", None)
    found = _WORDS.search(str(error)) if isinstance(error, ResponseError) else None
    if found is None:
        return None
    word, host, port = found.groups()
    return Redirection(word, Address(host or asked.host, int(port)) if port else None)


def key_of(args: Sequence[Any]) -> str | bytes:
    """Return the first key of a command, or `ANYWHERE` if any server can answer it."""
    name = str(args[0])
    if name in _SCRIPTS:
        return args[3]  # type: ignore[no-any-return]
    return ANYWHERE if name in _KEYLESS else args[1]


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key."""
    return key_slot(key if isinstance(key, bytes) else key.encode())
