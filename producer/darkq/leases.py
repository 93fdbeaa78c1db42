"""Which worker holds how many leases."""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis

from darkq.keys import PRIORITIES, JobKeys, queue
from darkq.worker_handle import Drain, read_orders

_MOST_LOOKED_AT = 1000
_FOR_EVER_MS = 1 << 53


class WorkerLeases(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs a worker runs, and when the first of their leases ends, epoch ms (0: none).

    Of jobs that are not due, a thousand of each queue are looked at, the next first. `drained` is
    what an operator has told the worker.
    """

    worker: str
    running: int
    first_ends_ms: int
    drained: Drain | None = None


async def read_leases(redis: Redis, workers: list[str], partitions: int) -> list[WorkerLeases]:
    """Return what these workers hold. Raises what redis-py raises."""
    seconds, micros = await redis.time()
    after = f"({seconds * 1000 + micros / 1000:.3f}"
    pipe = redis.pipeline(transaction=False)
    for partition in range(partitions):
        for priority in PRIORITIES:
            name = queue(partition, priority)
            pipe.zrangebyscore(name, after, _FOR_EVER_MS, 0, _MOST_LOOKED_AT, withscores=True)
    not_due = [job for jobs in await pipe.execute() for job in jobs]
    ends: dict[str, list[int]] = {worker: [] for worker in workers}
    for worker, end_ms in await _held(redis, not_due):
        if worker in ends:
            ends[worker].append(end_ms)
    told = dict(zip(workers, await read_orders(redis, workers), strict=True))
    return [
        WorkerLeases(
            worker=worker,
            running=len(held),
            first_ends_ms=min(held, default=0),
            drained=told[worker],
        )
        for worker, held in ends.items()
    ]


async def _held(redis: Redis, not_due: list[tuple[bytes, float]]) -> list[tuple[str, int]]:
    """Return the worker and the end of each lease: the place of its job in the queue.

    What is deferred has none.
    """
    pipe = redis.pipeline(transaction=False)
    ends = []
    for arq_id, end_ms in not_due:
        try:
            pipe.get(JobKeys.from_arq_id(arq_id.decode()).in_progress)
        except ValueError:  # anybody may have put it there; a claim will throw it out
            continue
        ends.append(int(end_ms))
    tokens = await pipe.execute(raise_on_error=False) if ends else []
    return [
        (token.decode(errors="replace").rpartition(":")[0], end_ms)
        for token, end_ms in zip(tokens, ends, strict=True)
        if isinstance(token, bytes)  # and no error of a key of another type
    ]
