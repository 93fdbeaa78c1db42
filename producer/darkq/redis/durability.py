"""Waiting for replicas: a write counts once `DARKQ_REDIS_WAIT_REPLICAS` of them have it.

Redis replies before its replicas have received a write. So an acknowledged write can be lost when
the master fails and a replica is promoted.

`WAIT` waits for the last write of its connection. A repeated call, over another connection, finds
its work done and writes nothing; then `WAIT` would return at once. So a key is always written
before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar, cast

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError, ResponseError

from darkq.errors import NotReplicated
from darkq.protocol.keys import replication_key
from darkq.settings.settings import Settings

Command: TypeAlias = tuple[Any, ...]

T = TypeVar("T")

PATIENCE_S = 300.0
PAUSE_S = 0.5
_WRITTEN_TTL_MS = 60_000


class WaitRule(NamedTuple):
    """How many replicas to wait for, and for how long at most."""

    replicas: int
    timeout_ms: int

    def commands(self, key: str) -> tuple[Command, Command]:
        """Return what to send after commands on the slot of a key: a write, and `WAIT`."""
        return (
            ("SET", replication_key(key), "", "PX", _WRITTEN_TTL_MS),
            ("WAIT", self.replicas, self.timeout_ms),
        )

    def check(self, reached: int) -> None:
        """Check the reply of `WAIT`. Raises `NotReplicated`."""
        if reached < self.replicas:
            raise NotReplicated(reached, self.replicas)


async def replicated(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until enough replicas have what it wrote. The call must be idempotent.

    Raises `NotReplicated` after `PATIENCE_S`, and what the call raises.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + PATIENCE_S
    while True:
        try:
            return await call()
        except NotReplicated:
            if loop.time() > end_s:
                raise
        await asyncio.sleep(PAUSE_S)


def rule_of(settings: Settings) -> WaitRule:
    """Return the rule of the settings. `WAIT` gets half of the time that a call may take."""
    return WaitRule(settings.redis_wait_replicas, int(settings.redis_timeout_s * 500))


class WaitingRedis(Redis):
    """A client that can wait for replicas; by its default rule it waits for none."""

    wait_rule = WaitRule(0, 0)

    @classmethod
    def waiting(cls, pool: ConnectionPool, rule: WaitRule) -> Self:
        """Make a client that owns its pool, as `from_pool` does."""
        client = cls(connection_pool=pool)
        client.auto_close_connection_pool = True
        client.wait_rule = rule
        return client

    async def execute_durably(self, *command: Any) -> Any:
        """Run a script's command; return its reply once enough replicas have what it wrote.

        Raises `NotReplicated`, and what redis-py raises.
        """
        if not self.wait_rule.replicas:
            return await cast(Any, self.execute_command)(*command)
        return await self._at_its_server(command, self._and_wait)

    async def _at_its_server(
        self, command: Command, call: Callable[[Redis, Command], Awaitable[Any]]
    ) -> Any:
        return await call(self, command)

    async def _and_wait(self, server: Redis, command: Command) -> Any:
        async with server.pipeline(transaction=False) as pipe:  # all over one connection
            pipe.execute_command(*command)
            for each in self.wait_rule.commands(command[3]):  # the script's first key
                pipe.execute_command(*each)
            replies = await pipe.execute(raise_on_error=False)
        for reply in replies:
            # A server that is demoted ends its pending WAITs with this error.
            if isinstance(reply, ResponseError) and "UNBLOCKED" in str(reply):
                raise ConnectionError("the server is no master any more")
            if isinstance(reply, Exception):
                raise reply
        self.wait_rule.check(replies[-1])
        return replies[0]
