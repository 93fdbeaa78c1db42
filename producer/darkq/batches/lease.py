"""The lease of a batch, and what changes a batch as a whole: close, acknowledge, cancel.

One process at a time runs a batch, under a lease that it renews. When the lease is lost, the task
that took it is cancelled, as by `asyncio.timeout`: the block under the lease ends with
`BatchTaken`, wherever it waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from darkq.batches.results import Finished, Position
from darkq.errors import BatchNotFound, BatchTaken, InvalidJob, JobNotFound
from darkq.jobs import cancel as cancellation
from darkq.protocol.job import checked_metadata, checked_name
from darkq.protocol.keys import BatchKeys, batches
from darkq.protocol.plain import plain
from darkq.redis import scripts
from darkq.redis.pool import brief, speaking_darkq
from darkq.telemetry.logging import LogLine

logger = logging.getLogger("darkq.batch")

LEASE_S = 15.0
MAX_WINDOW = 100_000


class BatchLease:
    """A process's lease on a batch. Another process can take the batch once it has expired."""

    def __init__(self, redis: Redis, keys: BatchKeys, *, ttl_s: float) -> None:
        self.token = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"
        self.ttl_ms = int(ttl_s * 1000)
        self.lease_ms = int(LEASE_S * 1000)
        self._redis = redis
        self._keys = keys
        self._heartbeat: asyncio.Task[None] | None = None
        self._holder: asyncio.Task[object] | None = None
        self._cancelling = 0  # pending cancellations of the holder by others, as in asyncio.timeout
        self._lost: BatchTaken | BatchNotFound | None = None

    @property
    def held(self) -> bool:
        """Whether this process has taken the lease and not released it."""
        return self._heartbeat is not None

    async def take(self, made_with: Mapping[str, str | int] | None) -> None:
        """Take the lease and renew it. With the fields in `made_with`, create the batch first.

        Raises `BatchTaken`, `BatchNotFound`, `RedisUnavailable`.
        """
        async with speaking_darkq():
            await self._keep(self.lease_ms, made_with)
        self._holder, self._lost = asyncio.current_task(), None
        self._cancelling = self._holder.cancelling() if self._holder else 0
        self._heartbeat = asyncio.create_task(self._beat(), name="darkq-batch-lease")

    async def leave(self) -> None:
        """Release the lease. If Redis cannot be reached or refuses, the lease expires.

        Raises `BatchTaken` or `BatchNotFound` if it was lost before.
        """
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is None:
            return
        if self._lost is not None:
            if self._holder is not None and self._holder.uncancel() > self._cancelling:
                return  # cancelled by others too: that CancelledError must continue
            raise self._lost from None
        heartbeat.cancel()
        await asyncio.wait([heartbeat])
        with suppress(Exception):
            await self._keep(0, None)

    async def _beat(self) -> None:
        """Renew until the lease is lost. Other errors do not end this: the next try may succeed."""
        logged = ""  # each error once, not every five seconds
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await self._keep(self.lease_ms, None)
            except (BatchTaken, BatchNotFound) as error:
                self._lost = error
                if self._holder is not None:
                    self._holder.cancel()
                return
            except Exception as error:
                if logged != (logged := brief(error)):
                    batch = self._keys.public_id
                    logger.warning(
                        LogLine("cannot renew the batch's lease", batch=batch, error=logged)
                    )
            else:
                logged = ""

    async def _keep(self, lease_ms: int, made_with: Mapping[str, str | int] | None) -> None:
        keys = self._keys
        names = [keys.batch, keys.lines, keys.ends, keys.acknowledged, keys.runner]
        args: list[str | int] = [keys.tagged_id, self.token, lease_ms, self.ttl_ms]
        for field, value in (made_with or {}).items():
            args += [field, value]
        verdict, holder = await scripts.keep_batch(
            self._redis, [*names, batches(keys.partition)], args
        )
        if verdict == b"gone":
            raise BatchNotFound(keys.public_id)
        if verdict == b"taken":
            raise BatchTaken(keys.public_id, holder.decode())


def made_with(
    *, name: str | None, window: int, metadata: Mapping[str, str] | None, ttl_ms: int
) -> dict[str, str | int]:
    """Return the fields of a new batch. Raises `InvalidJob`."""
    window = plain(window)
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= MAX_WINDOW:
        raise InvalidJob("window", f"must be a whole number from 1 to {MAX_WINDOW:,}")
    return {
        "created_ms": int(time.time() * 1000),
        "name": checked_name("name", name) or "",
        "window": window,
        "metadata": msgspec.json.encode(checked_metadata(metadata or {})).decode(),
        "ttl_ms": ttl_ms,
    }


KEPT_ENDS = 10_000
"""So many acknowledged ends are kept for readers of `events`."""

_CANCELLED_AT_ONCE = 16


class Part(NamedTuple):
    """A stored part of a file that contains a page of ends."""

    name: str
    ttl_s: float


async def close_input(redis: Redis, keys: BatchKeys, *, least: int) -> bool:
    """Note permanently that all lines have been added.

    Returns False and changes nothing if Redis has fewer than `least`. Raises `BatchNotFound`.
    """
    return await _mark(redis, keys, "total", least)


async def cancel(redis: Redis, keys: BatchKeys, *, result_ttl_s: float) -> None:
    """Refuse further lines, and cancel the unfinished jobs. Raises `BatchNotFound`."""
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
            except JobNotFound:  # its record has expired, so it would never end
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
    """Acknowledge ends, and return how many of them.

    Results of lines in `keep` stay until they expire.

    If Redis has lost an end since it was read, only the ends before it are acknowledged; with
    a part, none. Raises `BatchTaken`, `BatchNotFound`.
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
