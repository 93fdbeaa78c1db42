"""Is the calculation of `docs/scale.md` correct for loads from which it was not derived?

Streams of 20 chunks a second, a tenth of them with a reader: measured cores and calls are compared
with `capacity`. It was derived from one worker with 100 and with 500 streams without readers in one
partition, and with 500 in 64 partitions.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.capacity import redis_cores
from benchmarks.costs import paced_run
from benchmarks.crew import Load, crew_of
from benchmarks.figures import Answer, Figures, Row

READ = 10


class _Case(NamedTuple):
    streams: int
    workers: int
    partitions: int
    masters: int = 0

    def __str__(self) -> str:
        where = f"{self.masters} masters" if self.masters else "one server"
        crowd = f"{self.streams:,} streams, workers {self.workers}"
        return f"{crowd}, partitions {self.partitions}, {where}"


CASES = (_Case(600, 2, 4), _Case(600, 2, 12, 3), _Case(300, 1, 1), _Case(1000, 1, 8))


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    rows, notes = [], []
    for case in CASES:
        runs = []
        for _ in range(repetitions):
            used, note = await paced_run(
                url,
                10 * scale,
                streams=case.streams,
                readers=case.streams // READ,
                workers=case.workers,
                partitions=case.partitions,
                masters=case.masters,
            )
            runs.append(used)
            notes.append(note)
        for what, unit, ours, ideal in (
            ("workers' CPU", "cores", [used.workers_cpu_s for used in runs], _predicted(case)[0]),
            ("Redis' CPU", "cores", [used.redis_cpu_s for used in runs], _predicted(case)[1]),
            ("calls", "1/s", [used.appends for used in runs], _predicted(case)[2]),
        ):
            baseline = Figures.of([ideal])
            rows.append(Row(f"{what}: {case}", unit, Figures.of(ours), baseline, "calculated"))
    return Answer(rows, notes)


def _predicted(case: _Case) -> tuple[float, float, float]:
    """Return the cores of all workers, those of Redis, and calls a second."""
    load = Load(
        case.streams,
        readers_per_job=1 / READ,
        jobs_per_s=0,
        workers_per_partition=case.workers,
    )
    crew = crew_of(case.workers, load, case.partitions, max(1, case.masters))
    return crew.workers * crew.share, redis_cores(load, crew), crew.all_sent.calls
