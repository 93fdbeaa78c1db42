"""A snapshot for operators, of all tenants: queues, workers, upstreams."""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis

from darkq.operate.queue_state import QueueStatus, read_queues
from darkq.operate.upstreams import UpstreamStatus, list_upstreams
from darkq.operate.workers import WorkerLeases, live_workers, read_leases
from darkq.redis.servers import read_clock_ms


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The state at `at_ms`, epoch milliseconds by the clock of Redis, as all times here.

    Queues are sorted by urgency, live workers and the upstreams that they serve by name.
    """

    at_ms: int
    queues: tuple[QueueStatus, ...]
    workers: tuple[WorkerLeases, ...]
    upstreams: tuple[UpstreamStatus, ...]


async def read_fleet(redis: Redis, partitions: int) -> Fleet:
    """Return the current state. Raises what redis-py raises."""
    at_ms = int(await read_clock_ms(redis))
    workers = await live_workers(redis)
    return Fleet(
        at_ms=at_ms,
        queues=tuple(await read_queues(redis, partitions)),
        workers=tuple(await read_leases(redis, workers, partitions)),
        upstreams=tuple(await list_upstreams(redis)),
    )
