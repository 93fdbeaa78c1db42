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
from typing import Literal, NamedTuple

import msgspec
from redis.asyncio import Redis

from darkq.batches.results import Finished, Position
from darkq.errors import BatchNotFound, BatchTaken, JobNotFound
from darkq.jobs import cancel as cancellation
from darkq.protocol.job import check_metadata, check_name, check_whole
from darkq.protocol.keys import BatchKeys
from darkq.redis import scripts
from darkq.redis.pool import brief, speaking_darkq
from darkq.telemetry.logging import LogEvent

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
        fields = {**made_with, "ttl_ms": self.ttl_ms} if made_with else None
        async with speaking_darkq():
            await self._keep(self.lease_ms, fields)
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
            await self._keep(0)

    async def _beat(self) -> None:
        """Renew until the lease is lost. Other errors do not end this: the next try may succeed."""
        logged = ""  # each error once, not every five seconds
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await self._keep(self.lease_ms)
            except (BatchTaken, BatchNotFound) as error:
                self._lost = error
                if self._holder is not None:
                    self._holder.cancel()
                return
            except Exception as error:
                if logged != (logged := brief(error)):
                    fields = {"batch": self._keys.public_id, "error": logged}
                    logger.warning(LogEvent("cannot renew the batch's lease", **fields))
            else:
                logged = ""

    async def _keep(self, lease_ms: int, made_with: Mapping[str, str | int] | None = None) -> None:
        outcome, holder = await scripts.batch_renew_lease(
            self._redis,
            self._keys,
            self.token,
            lease_ms=lease_ms,
            ttl_ms=self.ttl_ms,
            made_with=made_with,
        )
        if outcome == "gone":
            raise BatchNotFound(self._keys.public_id)
        if outcome == "taken":
            raise BatchTaken(self._keys.public_id, holder)


def describe_batch(
    *, name: str | None, window: int, metadata: Mapping[str, str] | None, lines: int | None
) -> dict[str, str | int]:
    """Return the fields of a new batch. Raises `InvalidJob`."""
    return {
        "created_ms": int(time.time() * 1000),
        "name": check_name("name", name) or "",
        "window": check_whole("window", window, MAX_WINDOW),
        "metadata": msgspec.json.encode(check_metadata(metadata or {})).decode(),
        **({} if lines is None else {"expected": int(lines)}),
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
    return await _close(redis, keys, "total", least)


async def cancel(redis: Redis, keys: BatchKeys, *, result_ttl_s: float) -> None:
    """Refuse further lines, and cancel the unfinished jobs. Raises `BatchNotFound`."""
    now_ms = time.time_ns() // 1_000_000
    await _close(redis, keys, "cancel", now_ms)
    left = iter([int(line) for line in await redis.zrangebyscore(keys.lines, 0, 0)])
    lost: list[int] = []

    async def cancel_some() -> None:
        for line in left:
            try:
                await cancellation.cancel(redis, keys.job(line), result_ttl_s=result_ttl_s)
            except JobNotFound:  # its record has expired, so it would never end
                lost.append(line)

    tasks = [asyncio.create_task(cancel_some()) for _ in range(_CANCELLED_AT_ONCE)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if lost:
        await _close(redis, keys, "cancel", now_ms, lost)


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
    ends = [
        scripts.PageEnd(position.stamp, end.outcome == "missing", end.number in keep)
        for end, position in zip(page, positions, strict=True)
    ]
    acknowledged = await scripts.batch_acknowledge(
        redis,
        keys,
        lease.token,
        ends,
        first=first,
        lease_ms=lease.lease_ms,
        ttl_ms=lease.ttl_ms,
        kept_ends=KEPT_ENDS,
        part=part.name if part else "",
        part_ttl_s=part.ttl_s if part else 0,
    )
    if acknowledged.ends is not None:
        return acknowledged.ends
    if acknowledged.holder is None:
        raise BatchNotFound(keys.public_id)
    raise BatchTaken(keys.public_id, acknowledged.holder)


async def _close(
    redis: Redis,
    keys: BatchKeys,
    what: Literal["total", "cancel"],
    value: int,
    lost: Sequence[int] = (),
) -> bool:
    outcome = await scripts.batch_close(redis, keys, what, value, lost)
    if outcome == "gone":
        raise BatchNotFound(keys.public_id)
    return outcome == "closed"
