"""Waiting jobs of one priority made jobs of the other, a page at a time, under load.

Each job is moved by one script, with its record: no claim and no interruption comes between.

A queue from its front to its end, page by page, while it changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

import msgspec
from redis.asyncio import Redis

from darkq.protocol.job import Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from darkq.settings.settings import Settings


async def shifting(
    redis: Redis,
    source: Priority,
    target: Priority,
    settings: Settings,
    limit: int | None = None,
) -> AsyncGenerator[Counter[str], None]:
    """Move jobs, or so many, and yield what became of each page.

    That is `moved`, `running`, `gone`, `full`. A line of a batch stays one. Raises what redis-py
    raises.
    """
    for partition in range(settings.partitions):
        async with aclosing(pages(redis, PartitionKeys(partition).queue(source))) as found:
            async for page in found:
                verdicts = await _shift(redis, page[:limit], source, target, settings)
                limit = None if limit is None else limit - verdicts["moved"]
                yield verdicts
                if verdicts["full"]:
                    return


async def give_back(redis: Redis, priority: Priority, partitions: int) -> int:
    """Put what is on its way to another Redis back into its queue; return how many jobs.

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
            verdicts["gone"] += 1  # it has expired, or is none: a claim will end it
        else:
            readable.append(scripts.ChangedRecord(keys, record, changed))
    verdicts.update(
        await scripts.change_priority(
            redis,
            source,
            target,
            jobs[0].partition,
            readable,
            queue_max_jobs=settings.queue_max_jobs,
        )
    )
    return verdicts


def _with_priority(record: bytes, priority: Priority) -> bytes | None:
    """Change the priority in a job's record; fields that this version does not know stay."""
    try:
        fields = msgspec.json.decode(record)
        fields["k"]["job"]["priority"] = priority
        return msgspec.json.encode(fields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, KeyError):
        return None


PAGE_JOBS = 100


async def pages(redis: Redis, name: str) -> AsyncGenerator[list[JobKeys], None]:
    """Yield the jobs of a queue or of the like, in their order; what can be none is left out.

    By score and not by place: places shift when jobs leave. What comes in meanwhile is told if it
    stands behind what was told last.
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
        jobs = [keys for arq_id in fresh if (keys := _keys(arq_id)) is not None]
        if jobs:
            yield jobs
        after = page[-1][1]
        seen = {arq_id for arq_id, score in page if score == after}


async def standing(redis: Redis, names: Iterable[str]) -> AsyncGenerator[Counter[str], None]:
    """Count a queue's jobs by what can be done with them, page by page.

    `waiting`, `running` (or may be: its worker is not known to have died), `line` of a batch,
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


def _keys(arq_id: bytes) -> JobKeys | None:
    try:
        return JobKeys.from_arq_id(arq_id.decode())
    except ValueError:  # anybody may have put it there; a claim will throw it out
        return None
