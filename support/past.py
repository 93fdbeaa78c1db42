"""An earlier moment that a server is taken back to: a crash or a failover loses what came since."""

from __future__ import annotations

from typing import Any, cast

from redis.asyncio import Redis

# One script, so that all of it is of one moment: clients go on meanwhile.
_EVERYTHING = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local ttl_ms = redis.call('PTTL', key)
  found[#found + 1] = key
  found[#found + 1] = redis.call('DUMP', key)
  found[#found + 1] = ttl_ms < 0 and 0 or now_ms + ttl_ms
end
return found
"""


class Past:
    """A moment that the server can be taken back to. Keys expire when they would have expired."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._kept: list[tuple[bytes, bytes, int]] = []

    async def keep(self) -> None:
        found = await cast(Any, self._redis.eval(_EVERYTHING, 0))
        self._kept = list(zip(found[::3], found[1::3], found[2::3], strict=True))

    async def come_back(self) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.flushdb()
            for name, data, expires_ms in self._kept:
                pipe.restore(name, expires_ms, data, absttl=bool(expires_ms))
            await pipe.execute()
