"""What do readers cost: 1,000 of one job, and one each of 1,000 jobs, in one process?

Measures the age of a chunk when a reader has it. In both cases the pace gives 2,000 deliveries a
second. One subscriber connection serves all readers.
"""

from __future__ import annotations

import asyncio

from benchmarks.answers import ages_us, paced
from benchmarks.figures import Answer, Figures, Row, percentile
from benchmarks.systems import Darkq, darkq
from darkq import Chunk, JobHandle

READERS = 1000
PER_S = 2.0
CHUNKS = 10


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    readers, prompt = int(READERS * scale), paced(CHUNKS, PER_S)
    one_job: list[list[float]] = []
    many_jobs: list[list[float]] = []
    async with darkq(url, jobs=readers) as us:
        for _ in range(repetitions):
            one_job.append(await _ages(us, prompt, 1, readers))
            many_jobs.append(await _ages(us, prompt, readers, 1))
    rows = []
    for what, ages in (
        (f"1 job, {readers:,} readers", one_job),
        (f"{readers:,} jobs, 1 reader each", many_jobs),
    ):
        for percent in (50, 99):
            figures = Figures.of([percentile(found, percent) / 1000 for found in ages])
            rows.append(Row(f"relay p{percent}, {what}", "ms", figures))
    return Answer(rows, ["Of one job's readers the last is as late as all the others together."])


async def _ages(us: Darkq, prompt: str, jobs: int, readers: int) -> list[float]:
    ages: list[float] = []

    async def read(job: JobHandle) -> None:
        async for event in job.events():
            if isinstance(event, Chunk):
                ages.extend(ages_us(event.text))

    handles = await us.client.enqueue_many([prompt] * jobs)
    await asyncio.gather(*(read(job) for job in handles for _ in range(readers)))
    assert len(ages) == jobs * readers * CHUNKS, "chunks are missing"
    return ages
