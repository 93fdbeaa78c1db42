"""The Lua scripts: one file each, one call each, atomic.

Every script touches the keys of one partition, or of one upstream, so that a Redis Cluster can
run it. The head of each file in `lua/` says what it takes and returns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

Argument: TypeAlias = str | bytes | int | float


class Script:
    """One Lua script, called by its digest. `head` is a file that comes before its own."""

    def __init__(self, name: str, *, head: str | None = None) -> None:
        self.name = name
        parts = (head, name) if head else (name,)
        self.source = b"\n".join(
            files("darkq").joinpath("lua", f"{part}.lua").read_bytes() for part in parts
        )
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    async def __call__(self, redis: Redis, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run the script; the first call on a server also brings it there.

        Raises what redis-py raises.
        """
        try:
            return await redis.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.execute_command("EVAL", self.source, len(keys), *keys, *args)

    def __repr__(self) -> str:
        return f"Script({self.name!r})"


enqueue = Script("enqueue", head="batches")
claim = Script("claim")
renew = Script("renew")
append = Script("append")
finish = Script("finish", head="end_line")
release = Script("release")
cancel = Script("cancel", head="end_line")
revive = Script("revive")
admit = Script("admit", head="limits")
report = Script("report", head="limits")
enter = Script("enter")
forget = Script("forget")
shift = Script("shift")
depart = Script("depart")
arrive = Script("arrive")
let_go = Script("let_go")
give_back = Script("give_back")
keep_batch = Script("keep_batch")
mark_batch = Script("mark_batch")
acknowledge = Script("acknowledge")
count = Script("count")

ALL = (
    enqueue,
    claim,
    renew,
    append,
    finish,
    release,
    cancel,
    revive,
    admit,
    report,
    enter,
    forget,
    shift,
    depart,
    arrive,
    let_go,
    give_back,
    keep_batch,
    mark_batch,
    acknowledge,
    count,
)


async def load(redis: Redis) -> None:
    """Bring all scripts to a server, for callers that pipeline their digests."""
    for script in ALL:
        await redis.execute_command("SCRIPT LOAD", script.source)
