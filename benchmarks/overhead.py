"""How many jobs a second does a worker run, if each answer is one chunk?

2,000 jobs wait, then the worker starts, with 100 slots. The run ends when no job waits or runs.
"""

from __future__ import annotations

import time

from benchmarks.answers import burst
from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import CpuShare
from benchmarks.systems import System, all_done, darkq, frozen, naive_arq


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    jobs = int(2000 * scale)
    ours, theirs = [], []
    async with darkq(url) as us, naive_arq(url) as them:
        for _ in range(repetitions):
            ours.append(await rate(us, jobs))
            theirs.append(await rate(them, jobs))
    us_rate, us_cpu = map(Figures.of, zip(*ours, strict=True))
    them_rate, them_cpu = map(Figures.of, zip(*theirs, strict=True))
    return Answer(
        [
            Row("one-chunk jobs", "1/s", us_rate, them_rate, "naive arq", Target("≥", 6)),
            Row("worker's CPU per one-chunk job", "ms", us_cpu, them_cpu, "naive arq"),
        ],
        [],
    )


async def rate(system: System, jobs: int) -> tuple[float, float]:
    """Return jobs per second, and the worker's CPU milliseconds per job."""
    with frozen(system.pid):
        await system.put(burst(1), jobs)
        cpu, begin_s = CpuShare(system.pid), time.monotonic()
    await all_done(system)
    return jobs / (time.monotonic() - begin_s), cpu.used_s() / jobs * 1e3
