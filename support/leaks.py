"""Every key that outlives a test must have a time to live, or stand on this short list."""

from __future__ import annotations

import re

from redis.asyncio import Redis

PERMANENT = (
    re.compile(rb"darkq:\{\d+\}:(interactive|bulk|control|moving:(interactive|bulk))"),
    re.compile(rb"darkq:keys|darkq:key:[0-9a-f]{64}|darkq:tickets"),
)


async def keys_without_ttl(redis: Redis) -> list[bytes]:
    """Return the keys that would stay for ever, and may not."""
    keys = [key async for key in redis.scan_iter(count=1000)]
    async with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.ttl(key)
        times = await pipe.execute()
    return [
        key
        for key, ttl_s in zip(keys, times, strict=True)
        if ttl_s == -1 and not any(name.fullmatch(key) for name in PERMANENT)
    ]
