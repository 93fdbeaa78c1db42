"""A Lua script: its text, its digest, and how it is called.

A script touches the keys of one partition, or of one upstream, so that a Redis Cluster can run it.

The form for a cluster differs in two ways. It publishes with SPUBLISH, where the server has it. And
its call has one more key, which never exists. While a slot is being moved to another server, Redis
checks the keys of a call before it runs the script. A missing key then makes it answer TRYAGAIN. So
a script cannot fail half-way because a key that it reaches later has moved already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from darkq.protocol.keys import absent_key
from darkq.redis.cluster_client import ClusterRedis
from darkq.redis.durability import WaitingRedis

Argument: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Argument, ...]

_ALONE = b"local PUBLISH = 'PUBLISH'\n"
_IN_CLUSTER = b"""KEYS[#KEYS] = nil
local PUBLISH = redis.REDIS_VERSION_NUM and 'SPUBLISH' or 'PUBLISH' -- both since 7.0
"""


class Script:
    """The file `lua/<name>.lua`, preceded by files of `lua/includes/`; called by its digest.

    A `durable` script counts only once enough replicas have what it wrote.
    """

    def __init__(self, name: str, *, includes: Sequence[str] = (), durable: bool = False) -> None:
        self.name = name
        self._durable = durable
        lua = files("darkq.redis").joinpath("lua")
        paths = [*(lua.joinpath("includes", f"{part}.lua") for part in includes)]
        paths.append(lua.joinpath(f"{name}.lua"))
        text = b"\n".join(path.read_bytes() for path in paths)
        self._sources = (_ALONE + text, _IN_CLUSTER + text)
        self._shas = tuple(
            hashlib.sha1(source, usedforsecurity=False).hexdigest() for source in self._sources
        )

    def source(self, *, in_cluster: bool = False) -> bytes:
        """Return the text that a server loads."""
        return self._sources[in_cluster]

    def sha(self, *, in_cluster: bool = False) -> str:
        """Return the digest under which a server knows the script."""
        return self._shas[in_cluster]

    def call(self, keys: Sequence[str], args: Sequence[Argument], *, in_cluster: bool) -> Command:
        """Return the command that runs the script, on a server that has loaded it."""
        if in_cluster:
            keys = [*keys, absent_key(keys[0])]
        return ("EVALSHA", self._shas[in_cluster], len(keys), *keys, *args)

    async def __call__(self, redis: Redis, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run the script. Raises what redis-py raises, and `NotReplicated`."""
        return await self.run(redis, self.call(keys, args, in_cluster=is_cluster(redis)))

    async def run(self, redis: Redis, command: Command) -> Any:
        """Run a command that `call` made; the first one on a server also loads the script."""
        execute: Callable[..., Awaitable[Any]] = redis.execute_command
        if self._durable and isinstance(redis, WaitingRedis):
            execute = redis.execute_durably
        try:
            return await execute(*command)
        except NoScriptError:
            return await execute("EVAL", self._sources[is_cluster(redis)], *command[2:])

    def __repr__(self) -> str:
        return f"Script({self.name!r})"


def is_cluster(redis: Redis) -> bool:
    """Return whether a client speaks to a cluster, where scripts have another form."""
    return isinstance(redis, ClusterRedis)


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, the unit of all times in the scripts."""
    return int(seconds * 1000)
