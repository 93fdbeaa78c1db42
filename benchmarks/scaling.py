"""What do more workers, partitions and masters bring: 1, 2, 4 of the first, on two cores?

One-chunk jobs and endless answers at full speed: 100 concurrent jobs per worker, all answers read.
The ideal line is the rate of one worker times their number. Workers share the two cores; upstream,
Redis and readers are on the second. So two workers and everything else share what one worker had
alone: the cost of a job is more significant here than the rate. The masters of a cluster share a
core, too.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from benchmarks.answers import burst
from benchmarks.figures import Answer, Figures, Row, number
from benchmarks.fleet import Used, fleet, frozen_all

STREAMS = 100
CHUNKS = 10_000
JOBS = 2000


class _Where(NamedTuple):
    workers: int
    partitions: int = 1
    masters: int = 0

    def __str__(self) -> str:
        where = f"{self.masters} masters" if self.masters else "one server"
        return f"workers {self.workers}, partitions {self.partitions}, {where}"


WHERE = (
    *(_Where(workers) for workers in (1, 2, 4)),
    *(_Where(workers, 12, 3) for workers in (1, 2, 4)),
    *(_Where(1, partitions) for partitions in (8, 64)),
)


class _Point(NamedTuple):
    chunks_per_s: float
    worker_us_per_chunk: float
    redis_us_per_chunk: float
    jobs_per_s: float
    worker_us_per_job: float
    redis_us_per_job: float
    busy_chunks: float
    busy_jobs: float


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    points: dict[_Where, list[_Point]] = {where: [] for where in WHERE}
    for _ in range(repetitions):
        for where, found in points.items():
            found.append(await _point(url, where, int(CHUNKS * scale), int(JOBS * scale)))
    rows, notes = [], []
    for where, found in points.items():
        one = points[where._replace(workers=1)]
        for what, field in (("endless answers, chunks", 0), ("one-chunk jobs", 3)):
            ours = Figures.of([point[field] for point in found])
            ideal = Figures.of([where.workers * point[field] for point in one])
            name = f"{where.workers} × one worker"
            extra = (ideal, name) if where.workers > 1 else ()
            rows.append(Row(f"{what}: {where}", "1/s", ours, *extra))
            for who, offset in (("workers'", 1), ("Redis'", 2)):
                figures = Figures.of([point[field + offset] for point in found])
                rows.append(Row(f"{who} CPU of each, {what}: {where}", "µs", figures))
        busy = [Figures.of([point[field] for point in found]) for field in (6, 7)]
        notes.append(
            f"{where}: {number(busy[0].median)} of 2 cores busy with answers, "
            f"{number(busy[1].median)} with jobs."
        )
    return Answer(rows, notes)


async def _point(url: str, where: _Where, chunks: int, jobs: int) -> _Point:
    async with fleet(
        url, workers=where.workers, partitions=where.partitions, masters=where.masters
    ) as running:
        before = await running.used()
        counts = await asyncio.gather(
            *(running.read(burst(chunks)) for _ in range(STREAMS * where.workers))
        )
        streamed = (await running.used()).since(before)
        assert set(counts) == {chunks}, "chunks are missing"
        with frozen_all(running.pids):
            await running.put(burst(1), jobs * where.workers)
            frozen = await running.used()
        done = (await running.ended(jobs * where.workers, frozen)).since(frozen)
    rate = sum(counts) / streamed.at_s
    return _Point(
        rate,
        *_each(streamed, rate),
        done.ended,
        *_each(done, done.ended),
        streamed.machine_cpu_s,
        done.machine_cpu_s,
    )


def _each(used: Used, per_s: float) -> tuple[float, float]:
    return used.workers_cpu_s / per_s * 1e6, used.redis_cpu_s / per_s * 1e6
