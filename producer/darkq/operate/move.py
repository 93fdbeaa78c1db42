"""Moves waiting jobs to the other priority; and reads a queue page by page, while it changes.

One script moves a page of jobs with their records, so a job is never in both queues or in none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

import msgspec
from redis.asyncio import Redis

from darkq.errors import QueueFull
from darkq.protocol.job import Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from darkq.settings.settings import Settings


async def shift(
    redis: Redis,
    source: Priority,
    target: Priority,
    settings: Settings,
    limit: int | None = None,
) -> AsyncGenerator[Counter[str], None]:
    """Move all jobs, or `limit` of them, and yield the verdicts of each page.

    Verdicts are `moved`, `running`, `gone`, `full`. Lines of a batch are moved too, and remain its
    lines. Raises `QueueFull`, and what redis-py raises.
    """
    for partition in range(settings.partitions):
        async with aclosing(pages(redis, PartitionKeys(partition).queue(source))) as found:
            async for page in found:
                verdicts = await _shift(redis, page[:limit], source, target, settings)
                limit = None if limit is None else limit - verdicts["moved"]
                yield verdicts
                if verdicts["full"]:
                    raise QueueFull(target, settings.queue_max_jobs)


async def give_back(redis: Redis, priority: Priority, partitions: int) -> int:
    """Return jobs in transit to another Redis to their queue, and return their number.

    That ends the move. Raises what redis-py raises.
    """
    count = 0
    for partition in range(partitions):
        async with aclosing(pages(redis, PartitionKeys(partition).moving(priority))) as found:
            async for page in found:
                count += await scripts.transfer_give_back(redis, priority, page)
        await redis.execute_command("HDEL", PartitionKeys(partition).control, f"moving:{priority}")
    return count


async def _shift(
    redis: Redis, jobs: Sequence[JobKeys], source: Priority, target: Priority, settings: Settings
) -> Counter[str]:
    verdicts = Counter[str]()
    readable: list[scripts.ChangedRecord] = []
    for keys, record in zip(jobs, await redis.mget([keys.job for keys in jobs]), strict=True):
        changed = None if record is None else _with_priority(record, target)
        if record is None or changed is None:
            verdicts["gone"] += 1  # expired or unreadable: a claim will end it
        else:
            readable.append(scripts.ChangedRecord(keys, record, changed))
    most, partition = settings.queue_max_jobs, jobs[0].partition
    verdicts.update(
        await scripts.change_priority(
            redis, source, target, partition, readable, queue_max_jobs=most
        )
    )
    return verdicts


def _with_priority(record: bytes, priority: Priority) -> bytes | None:
    """Change the priority in a job's record. Fields of newer versions are kept."""
    try:
        fields = msgspec.json.decode(record)
        fields["k"]["job"]["priority"] = priority
        return msgspec.json.encode(fields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, KeyError):
        return None


PAGE_JOBS = 100


async def pages(redis: Redis, name: str) -> AsyncGenerator[list[JobKeys], None]:
    """Yield the jobs of a queue, or of another list of jobs, in order. Skips foreign members.

    Reads by score and not by rank: ranks shift when jobs leave. A job that is added meanwhile is
    included if it sorts behind the last one read.
    """
    seen: set[bytes] = set()
    after: str | float = "-inf"
    while True:
        page = await redis.zrangebyscore(
            name, after, "+inf", start=0, num=PAGE_JOBS + len(seen), withscores=True
        )
        fresh = [arq_id for arq_id, _ in page if arq_id not in seen]
        if not fresh:
            return
        jobs = [keys for each in fresh if (keys := JobKeys.from_member(each)) is not None]
        if jobs:
            yield jobs
        after = page[-1][1]
        seen = {arq_id for arq_id, score in page if score == after}


async def count_jobs(redis: Redis, names: Iterable[str]) -> AsyncGenerator[Counter[str], None]:
    """Count the jobs of queues by whether they can be moved, page by page.

    `waiting`; `running`, or under a lease whose worker may still be alive; `line` of a batch;
    `expired`.
    """
    for name in names:
        async with aclosing(pages(redis, name)) as found:
            async for page in found:
                yield await _count(redis, page)


async def _count(redis: Redis, jobs: list[JobKeys]) -> Counter[str]:
    async with redis.pipeline(transaction=False) as pipe:
        for keys in jobs:
            pipe.hmget(keys.state, ["held", "batch"])
            pipe.exists(keys.job)
        replies = await pipe.execute()
    return Counter(
        "running" if held else "line" if batch else "waiting" if stored else "expired"
        for (held, batch), stored in zip(replies[::2], replies[1::2], strict=True)
    )
