"""Which workers are alive: each keeps a health record that soon expires without it."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.keys import worker

_SCAN_COUNT = 1000


async def live_workers(redis: Redis) -> list[str]:
    """Return the ids of the workers that are alive, sorted. Looks at every key of the database."""
    prefix = worker("")
    found = redis.scan_iter(match=f"{prefix}*", count=_SCAN_COUNT)
    return sorted({key.decode().removeprefix(prefix) async for key in found})
