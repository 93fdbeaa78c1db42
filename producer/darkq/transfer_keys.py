"""Idempotency keys carried to another Redis, before the jobs that they stand for.

A key does not say in which queue its job waits, and no job knows its key: so all keys are looked
through, in bounded pages. At the target a key counts once its job is there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from redis.asyncio import Redis

from darkq.job import Priority
from darkq.keys import JobKeys, moving, queue
from darkq.servers import scan

PATTERN = "darkq:idempotency:*"
_PAGE_KEYS = 500


async def carry_idempotency_keys(
    source: Redis, target: Redis, priority: Priority
) -> AsyncGenerator[int, None]:
    """Copy the keys of a queue's jobs; yield how many of each page. Raises what redis-py raises."""
    page: list[bytes] = []
    async for name in scan(source, PATTERN, count=_PAGE_KEYS):
        page.append(name)
        if len(page) == _PAGE_KEYS:
            yield await _carry(source, target, priority, page)
            page = []
    if page:
        yield await _carry(source, target, priority, page)


async def _carry(source: Redis, target: Redis, priority: Priority, names: Sequence[bytes]) -> int:
    async with source.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.get(name)
            pipe.pttl(name)
        replies = await pipe.execute()
    noted = [
        (name, value, ttl_ms, keys)
        for name, value, ttl_ms in zip(names, replies[::2], replies[1::2], strict=True)
        if ttl_ms > 0 and (keys := _job_of(value)) is not None
    ]
    async with source.pipeline(transaction=False) as pipe:
        for _, _, _, keys in noted:
            pipe.zscore(queue(keys.partition, priority), keys.arq_id)
            pipe.zscore(moving(keys.partition, priority), keys.arq_id)
        places = await pipe.execute() if noted else []
    waiting = [
        note
        for note, place, on_its_way in zip(noted, places[::2], places[1::2], strict=True)
        if place is not None or on_its_way is not None
    ]
    async with target.pipeline(transaction=False) as pipe:
        for name, value, ttl_ms, _ in waiting:
            pipe.set(name, value, px=ttl_ms, nx=True)
        copied: list[Any] = await pipe.execute() if waiting else []
    return sum(map(bool, copied))


def _job_of(value: bytes | None) -> JobKeys | None:
    try:
        return JobKeys.from_arq_id((value or b"").decode().partition(" ")[2])
    except ValueError:
        return None
