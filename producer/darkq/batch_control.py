"""What changes a batch as a whole: closing its input, acknowledging ends, cancelling it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from darkq import cancellation, scripts
from darkq.batch_ends import Finished, Position
from darkq.batch_lease import BatchLease
from darkq.errors import BatchNotFound, BatchTaken, JobNotFound
from darkq.keys import BatchKeys

KEPT_ENDS = 10_000
"""So many acknowledged ends are kept for whoever follows the batch."""

_CANCELLED_AT_ONCE = 16


class Part(NamedTuple):
    """A stored part of a file that holds a page of ends."""

    name: str
    ttl_s: float


async def close_input(redis: Redis, keys: BatchKeys, *, least: int) -> bool:
    """Say for good that all lines have been added.

    Return False, having changed nothing, when Redis knows of fewer than `least`. Raises
    `BatchNotFound`.
    """
    return await _mark(redis, keys, "total", least)


async def cancel(redis: Redis, keys: BatchKeys, *, result_ttl_s: float) -> None:
    """Take no further line, and cancel the jobs that have not ended. Raises `BatchNotFound`."""
    now_ms = time.time_ns() // 1_000_000
    await _mark(redis, keys, "cancel", now_ms)
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
        await _mark(redis, keys, "cancel", now_ms, *lost)


async def acknowledge(
    redis: Redis,
    keys: BatchKeys,
    lease: BatchLease,
    page: Sequence[Finished],
    part: Part | None = None,
    keep: Container[int] = (),
) -> int:
    """Take note that these ends have been taken over; return how many of them.

    The results of the lines of `keep` stay until they expire.

    Those from the first that Redis has lost since it was read are left; with a part, all are left
    then. Raises `BatchTaken`, `BatchNotFound`.
    """
    positions = [Position.parse(end.cursor) for end in page]
    first = positions[0].number
    if [each.number for each in positions] != list(range(first, first + len(page))):
        raise ValueError("a page is acknowledged in the order in which it was collected")
    args: list[str | int] = [keys.tagged_id, lease.token, lease.lease_ms, lease.ttl_ms]
    args += [KEPT_ENDS, keys.live, part.name if part else "", int(part.ttl_s * 1000) if part else 0]
    args.append(first)
    for end, position in zip(page, positions, strict=True):
        kept = "keep" if end.number in keep else ""
        args += [position.stamp, "1" if end.outcome == "missing" else kept]
    verdict: int | bytes = await scripts.acknowledge(
        redis,
        [keys.batch, keys.lines, keys.ends, keys.acknowledged, keys.runner, keys.parts],
        args,
    )
    if isinstance(verdict, int):
        return verdict
    if verdict == b"gone":
        raise BatchNotFound(keys.public_id)
    raise BatchTaken(keys.public_id, verdict.decode())


async def _mark(redis: Redis, keys: BatchKeys, what: str, least: int, *lost: str | int) -> bool:
    args = [keys.live, what, least, *lost]
    verdict: int = await scripts.mark_batch(redis, [keys.batch, keys.lines], args)
    if not verdict:
        raise BatchNotFound(keys.public_id)
    return verdict > 0
