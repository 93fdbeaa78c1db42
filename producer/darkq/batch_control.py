"""What changes a batch as a whole: closing its input, acknowledging ends, cancelling it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.asyncio import Redis

from darkq import cancellation, scripts
from darkq.batch_ends import Finished
from darkq.batch_lease import BatchLease
from darkq.errors import BatchNotFound, BatchTaken, JobNotFound
from darkq.keys import BatchKeys

KEPT_ENDS = 10_000
"""So many acknowledged ends are kept for whoever follows the batch."""

_CANCELLED_AT_ONCE = 16


async def close_input(redis: Redis, keys: BatchKeys) -> None:
    """Say for good that all lines have been added. Raises `BatchNotFound`."""
    await _mark(redis, keys, "total")


async def cancel(redis: Redis, keys: BatchKeys, *, result_ttl_s: float) -> None:
    """Take no further line, and cancel the jobs that have not ended. Raises `BatchNotFound`."""
    await _mark(redis, keys, "cancel")
    lines = [int(line) for line in await redis.zrangebyscore(keys.lines, 0, 0)]
    left = iter(lines)
    lost: list[str | int] = []

    async def cancel_some() -> None:
        for line in left:
            job = keys.job(line)
            try:
                await cancellation.cancel(redis, job, result_ttl_s=result_ttl_s)
            except JobNotFound:
                lost.extend((line, job.arq_id))

    tasks = [asyncio.create_task(cancel_some()) for _ in range(_CANCELLED_AT_ONCE)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if lost:
        await _mark(redis, keys, "cancel", *lost)


async def acknowledge(
    redis: Redis, keys: BatchKeys, lease: BatchLease, page: Sequence[Finished]
) -> None:
    """Take note that these ends have been taken over. Raises `BatchTaken`, `BatchNotFound`."""
    verdict: bytes = await scripts.acknowledge(
        redis,
        [keys.batch, keys.lines, keys.ends, keys.acknowledged, keys.runner],
        [
            keys.tagged_id,
            lease.token,
            lease.lease_ms,
            lease.ttl_ms,
            page[-1].cursor,
            KEPT_ENDS,
            keys.live,
            *(end.number for end in page if end.outcome == "missing"),
        ],
    )
    if verdict == b"gone":
        raise BatchNotFound(keys.public_id)
    if verdict:
        raise BatchTaken(keys.public_id, verdict.decode())


async def _mark(redis: Redis, keys: BatchKeys, what: str, *lost: str | int) -> None:
    if not await scripts.mark_batch(redis, [keys.batch, keys.lines], [keys.live, what, *lost]):
        raise BatchNotFound(keys.public_id)
