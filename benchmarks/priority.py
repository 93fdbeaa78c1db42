"""Does a batch of 100,000 lines leave an interactive job's pick-up as it is?

As `pickup`, while `darkq batch run` keeps a worker's slots full but for ten that are reserved. Once
its answers come at the pace of a model, 20 chunks a second in each slot, so that the worker has
time; once they are one chunk each, as fast as two cores can. In turn with each, an idle worker on
the same cores is asked.
"""

from __future__ import annotations

import asyncio

from benchmarks.answers import burst, paced
from benchmarks.batches import batch_run, files
from benchmarks.figures import Answer, Figures, Row, Target, percentile
from benchmarks.pickup import RESERVED, latencies_ms
from benchmarks.systems import Darkq, darkq
from darkq.protocol.keys import queue

LINES = 100_000
CASES = (
    ("while a batch runs at a model's pace", paced(20, 20), Target("≤", 1.5)),
    ("while a batch takes all of the machine", burst(1), None),
)
_FULL = 1500


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    jobs, rows = int(200 * scale), []
    for when, prompt, target in CASES:
        busy, idle = await _in_turn(url, prompt, jobs, repetitions)
        for percent in (50, 99):
            figures, baseline = (
                Figures.of([percentile(latencies, percent) for latencies in side])
                for side in (busy, idle)
            )
            question = f"pick-up p{percent}, {when}"
            rows.append(Row(question, "ms", figures, baseline, "darkq, idle worker", target))
    return Answer(rows, [])


async def _in_turn(
    url: str, prompt: str, jobs: int, repetitions: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the latencies of a worker while a batch runs, and those of an idle one."""
    busy, idle = [], []
    async with darkq(url, settings=RESERVED) as full, darkq(url) as free:
        with files(LINES, prompt) as paths, batch_run(full, *paths) as process:
            await _has_begun(full)
            for _ in range(repetitions):
                busy.append(await latencies_ms(full, jobs))
                idle.append(await latencies_ms(free, jobs))
            assert process.poll() is None, "the batch has ended too early"
    return busy, idle


async def _has_begun(system: Darkq) -> None:
    """Wait until a batch has filled its window, or nearly so."""
    while await system.redis.zcard(queue(0, "bulk")) < _FULL:  # noqa: ASYNC110 (another process's)
        await asyncio.sleep(0.01)
