"""Which workers are alive.

A worker keeps a health record that expires without it, what it serves beside it, and its id in
a set. Who asks reads the set and looks for the records, whatever else is in the database.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from darkq.keys import WORKERS, served, worker, worker_orders

_SET_TTL_S = 24 * 3600
_SERVES_TTL_S = 60


async def sign_in(redis: Redis, worker_id: str, serves: bytes = b"") -> None:
    """Put a worker into the set, and what it serves beside it; repeat it, or they expire."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.sadd(WORKERS, worker_id)
        pipe.expire(WORKERS, _SET_TTL_S)
        if serves:
            pipe.set(served(worker_id), serves, ex=_SERVES_TTL_S)
        await pipe.execute()


async def sign_out(redis: Redis, worker_id: str) -> None:
    """Take a worker that ends out of the set, and its records away, its orders too."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.srem(WORKERS, worker_id)
        pipe.delete(worker(worker_id), served(worker_id), worker_orders(worker_id))
        await pipe.execute()


async def live_workers(redis: Redis) -> list[str]:
    """Return the ids of the workers that are alive, sorted. Forgets those that are not.

    One without a health record may have been cut off for a while, and comes back. So nothing else
    of it is touched: above all not its orders, which have a time to live of their own.
    """
    members: Any = await redis.execute_command("SMEMBERS", WORKERS)
    ids = sorted(member.decode(errors="replace") for member in members)
    records = await redis.mget(map(worker, ids)) if ids else []
    alive = [id_ for id_, record in zip(ids, records, strict=True) if record is not None]
    if len(alive) < len(ids):
        with suppress(NoPermissionError):  # whoever may only read leaves that to others
            await redis.execute_command("SREM", WORKERS, *set(ids).difference(alive))
    return alive
