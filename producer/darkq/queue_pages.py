"""A queue from its front to its end, page by page, while it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from redis.asyncio import Redis

from darkq.keys import JobKeys

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
