"""How many bytes of Redis does a job take: waiting, running, finished? And a chunk?

Counted by Redis itself (`used_memory_dataset`), over many jobs. A chunk's share is the difference
between answers of many chunks and of one; merged chunks take less. Naive arq does not store chunks,
so a reader cannot resume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple

from redis.asyncio import Redis

from benchmarks.answers import paced
from benchmarks.figures import Answer, Figures, Row
from benchmarks.systems import System, all_done, darkq, naive_arq

LONG_CHUNKS = 501  # far more than the 4 KB that Redis allocates at once
LONG_JOBS = 20
PER_S = 100.0


class _Bytes(NamedTuple):
    waiting: float
    finished: float
    chunk: float


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    jobs = int(400 * scale)
    ours, theirs = [], []
    async with (
        darkq() as idle_us,
        naive_arq() as idle_them,
        darkq(url) as us,
        naive_arq(url) as them,
    ):
        for _ in range(repetitions):
            ours.append(await _bytes(idle_us, us, jobs))
            theirs.append(await _bytes(idle_them, them, jobs))
    rows = []
    for what, field in (
        ("Redis memory of a waiting job", "waiting"),
        ("Redis memory of a finished job, one chunk", "finished"),
        ("Redis memory of a chunk more", "chunk"),
    ):
        figures, baseline = (
            Figures.of([getattr(found, field) for found in side]) for side in (ours, theirs)
        )
        rows.append(Row(what, "B", figures, baseline, "naive arq"))
    return Answer(
        rows, ["A chunk here has 20 characters; naive arq keeps them in the result only."]
    )


async def _bytes(idle: System, working: System, jobs: int) -> _Bytes:
    waiting = await _growth(idle, idle.put("Write a haiku about queues.", jobs)) / jobs
    one = await _growth(working, _run(working, 1, jobs)) / jobs
    long = await _growth(working, _run(working, LONG_CHUNKS, LONG_JOBS)) / LONG_JOBS
    return _Bytes(waiting, one, (long - one) / (LONG_CHUNKS - 1))


async def _run(system: System, chunks: int, jobs: int) -> None:
    await system.put(paced(chunks, PER_S), jobs)
    await all_done(system)


async def _growth(system: System, work: Awaitable[None]) -> int:
    """Return by how much Redis grows during the block, from an empty database."""
    await system.redis.flushdb()
    before = await _used(system.redis)
    await work
    await asyncio.sleep(0.2)  # until the buffers of connections shrink
    return await _used(system.redis) - before


async def _used(redis: Redis) -> int:
    return int((await redis.info("memory"))["used_memory_dataset"])
