"""How long until an enqueued job's request has reached the upstream?

Jobs are enqueued at random moments, 20 a second, for an idle worker. The second run has 5,000 jobs
that run elsewhere in the fleet: they are only claimed, which is all that other workers can see. The
third run has a backlog of 100,000 bulk jobs, which fill the worker except its reserved slots. arq
has one queue, so its reader would wait for the whole backlog.
"""

from __future__ import annotations

import asyncio
import math
import random
import time

from benchmarks.answers import ARRIVAL, paced
from benchmarks.figures import Answer, Figures, Row, Target, percentile
from benchmarks.systems import System, darkq, naive_arq
from darkq.protocol.job import Job

RUNNING_ELSEWHERE = 5000
BACKLOG = 100_000
RESERVED = {"DARKQ_WORKER_RESERVED_INTERACTIVE": "10"}
PER_S = 20.0
PATIENCE_S = 10.0


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    jobs = int(200 * scale)
    async with darkq(url) as us, naive_arq(url) as them:
        idle_us, idle_them = [], []
        for _ in range(repetitions):
            idle_us.append(await latencies_ms(us, jobs))
            idle_them.append(await latencies_ms(them, jobs))
        await us.occupy_fleet(RUNNING_ELSEWHERE)
        await them.occupy_fleet(RUNNING_ELSEWHERE)
        busy_us = [await latencies_ms(us, jobs) for _ in range(repetitions)]
        busy_them = [await latencies_ms(them, 5)]
    beside_us, beside_idle = await _beside_a_backlog(url, jobs, repetitions, int(BACKLOG * scale))
    sixtieth = Target("≤", 1 / 60)
    rows = []
    for where, ours, theirs in (
        ("idle worker", idle_us, idle_them),
        (f"beside {RUNNING_ELSEWHERE:,} running jobs", busy_us, busy_them),
    ):
        for percent in (50, 99):
            question = f"pick-up p{percent}, {where}"
            figures = _figures(ours, percent)
            rows.append(
                Row(question, "ms", figures, _figures(theirs, percent), "naive arq", sixtieth)
            )
            if percent == 50:
                rows.append(Row(question, "ms", figures, target=Target("≤", 3)))
    for percent, target in ((50, Target("≤", 3)), (99, None)):
        question = f"pick-up p{percent}, beside {BACKLOG:,} waiting bulk jobs"
        figures, idle = _figures(beside_us, percent), _figures(beside_idle, percent)
        rows.append(Row(question, "ms", figures, idle, "darkq, idle worker", Target("≤", 1.5)))
        if target:
            rows.append(Row(question, "ms", figures, target=target))
    return Answer(rows, [f"“Never” is: not within {PATIENCE_S:g} s."])


async def _beside_a_backlog(
    url: str, jobs: int, repetitions: int, backlog: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the latencies with a backlog, and those of an idle worker, measured alternately."""
    long = Job.create(paced(1000, 0.5), priority="bulk")
    beside, idle = [], []
    async with darkq(url, settings=RESERVED) as busy_us, darkq(url) as idle_us:
        await busy_us.client.enqueue_many([long] * backlog)
        for _ in range(repetitions):
            beside.append(await latencies_ms(busy_us, jobs))
            idle.append(await latencies_ms(idle_us, jobs))
    return beside, idle


def _figures(repetitions: list[list[float]], percent: float) -> Figures:
    return Figures.of([percentile(latencies, percent) for latencies in repetitions])


async def latencies_ms(system: System, jobs: int) -> list[float]:
    async def one() -> float:
        begin_ns = time.monotonic_ns()
        try:
            async with asyncio.timeout(PATIENCE_S):
                arrival_ns = int(await system.ask(ARRIVAL))
        except TimeoutError:
            return math.inf
        return (arrival_ns - begin_ns) / 1e6

    async with asyncio.TaskGroup() as group:
        tasks = []
        for _ in range(jobs):
            await asyncio.sleep(random.uniform(0, 2 / PER_S))
            tasks.append(group.create_task(one()))
    return [task.result() for task in tasks]
