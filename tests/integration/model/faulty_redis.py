"""A Redis client that loses replies, and that others come before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from redis.asyncio import Redis

Fault: TypeAlias = Literal["request lost", "reply lost"]

_CALLS = ("EVALSHA", "EVAL")


class FaultyRedis(Redis):
    """Plays one fault at the next script call.

    A call of its own is sent again, as redis-py does when a connection breaks, so a lost reply
    means that the script runs twice.
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
