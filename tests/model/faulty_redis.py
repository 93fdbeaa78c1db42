"""A Redis client that loses replies, and that others come before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError, NoScriptError

Fault: TypeAlias = Literal["request lost", "reply lost"]

_CALLS = ("EVALSHA", "EVAL")


class FaultyRedis(Redis):
    """Plays one fault at the next script call.

    A call of its own is sent again, as redis-py does when a connection breaks, so a lost reply
    means that the script runs twice. A pipeline raises: its caller decides what is sent again.
    """

    fault: Fault | None = None
    interlude: Callable[[], Awaitable[None]] | None = None
    """What others do before the next script call, after whatever its caller has looked at."""
    replies_lost = 0

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] in _CALLS:
            interlude, self.interlude = self.interlude, None
            if interlude is not None:
                await interlude()
            if self.fault == "reply lost":
                await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
                self.fault = None
                self.replies_lost += 1
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _FaultyPipeline(self, transaction, shard_hint)


class _FaultyPipeline(Pipeline):
    def __init__(self, redis: FaultyRedis, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, transaction, shard_hint)
        self._redis = redis

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        calls_scripts = any(args[0] in _CALLS for args, _ in self.command_stack)
        if self._redis.fault is None or not calls_scripts:
            return await super().execute(raise_on_error)
        if self._redis.fault == "reply lost":
            replies = await super().execute(raise_on_error)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                return replies  # nothing has run
            self._redis.replies_lost += 1
        self._redis.fault = None
        raise ConnectionError("the connection was lost")
