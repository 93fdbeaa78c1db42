"""The Lua scripts: one file each, one call each, atomic.

Every script touches the keys of one partition, or of one upstream, so that a Redis Cluster can
run it. The head of each file in `lua/` says what it takes and returns.

In a cluster each has two differences, made here. It publishes to shards, where the server knows
them. And it names one key more, that never exists: while a slot is on the move, a server refuses
a call at its door when any of its keys is not there. So no script runs halfway, into a key that has
left already; it is refused as a whole until the slot has arrived.
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

_ALONE = b"local PUBLISH = 'PUBLISH'\n"
_IN_CLUSTER = b"""KEYS[#KEYS] = nil
local PUBLISH = redis.REDIS_VERSION_NUM and 'SPUBLISH' or 'PUBLISH' -- both since 7.0
"""


class Script:
    """One Lua script, called by its digest. `head` names files that come before its own.

    What a `durable` one has done is lost to nobody: it counts once enough replicas have it.
    """

    def __init__(self, name: str, *, head: Sequence[str] = (), durable: bool = False) -> None:
        self.name = name
        self._durable = durable
        text = b"\n".join(
            files("darkq.redis").joinpath("lua", f"{part}.lua").read_bytes()
            for part in (*head, name)
        )
        self._sources = (_ALONE + text, _IN_CLUSTER + text)
        self._shas = tuple(
            hashlib.sha1(source, usedforsecurity=False).hexdigest() for source in self._sources
        )

    def source(self, *, in_cluster: bool = False) -> bytes:
        """Return what a server is to load."""
        return self._sources[in_cluster]

    def sha(self, *, in_cluster: bool = False) -> str:
        """Return the digest that a server knows it by."""
        return self._shas[in_cluster]

    def call(
        self, keys: Sequence[str], args: Sequence[Argument], *, in_cluster: bool
    ) -> tuple[Argument, ...]:
        """Return the command that runs it, on a server that has loaded it."""
        if in_cluster:
            keys = [*keys, absent_key(keys[0])]
        return ("EVALSHA", self._shas[in_cluster], len(keys), *keys, *args)

    async def __call__(self, redis: Redis, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run the script; the first call on a server also brings it there.

        Raises what redis-py raises, and `NotReplicated`.
        """
        in_cluster = isinstance(redis, ClusterRedis)
        _, sha, *rest = self.call(keys, args, in_cluster=in_cluster)
        execute: Callable[..., Awaitable[Any]] = redis.execute_command
        if self._durable and isinstance(redis, WaitingRedis):
            execute = redis.execute_durably
        try:
            return await execute("EVALSHA", sha, *rest)
        except NoScriptError:
            return await execute("EVAL", self._sources[in_cluster], *rest)

    def __repr__(self) -> str:
        return f"Script({self.name!r})"


enqueue = Script("enqueue", head=["headroom", "wake", "batches"], durable=True)
claim = Script("claim", head=["wake"])
renew = Script("renew")
append = Script("append")
finish = Script("finish", head=["drop", "end_line"])
release = Script("release", head=["wake"])
make_due = Script("make_due", head=["wake"])
cancel = Script("cancel", head=["end_line"], durable=True)
revive = Script("revive", head=["wake"], durable=True)
admit = Script("admit", head=["drop", "limits"])
report = Script("report", head=["drop", "limits"])
enter = Script("enter", head=["drop"])
forget = Script("forget")
shift = Script("shift", head=["wake"], durable=True)
depart = Script("depart", durable=True)
arrive = Script("arrive", head=["wake"], durable=True)
let_go = Script("let_go", durable=True)
give_back = Script("give_back", head=["wake"], durable=True)
keep_batch = Script("keep_batch", head=["drop"])
mark_batch = Script("mark_batch", durable=True)
acknowledge = Script("acknowledge", durable=True)
turn_file_batch = Script("turn_file_batch", durable=True)
count = Script("count")
publish = Script("publish")
pass_on = Script("pass_on", head=["wake"])
set_back = Script("set_back")
waiters_keep = Script("waiters_keep")
waiters_leave = Script("waiters_leave")

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Script))


async def load(redis: Redis) -> None:
    """Bring all scripts to a server, for callers that pipeline their digests."""
    for script in ALL:
        await redis.execute_command("SCRIPT LOAD", script.source())
