"""Does a batch of 100,000 lines slow down the pick-up of interactive jobs?

Like `pickup`, while `darkq batch run` fills a worker's slots except ten that are reserved. In one
case its answers have the pace of a model, 20 chunks a second in each slot, so that the worker has
time. In the other case they are one chunk each, as fast as two cores can. Alternately with each, an
idle worker on the same cores is measured. If a batch ends too early, it is run again with twice as
many lines, and the affected measurements are discarded.
"""

from __future__ import annotations

import asyncio
import traceback

from benchmarks.answers import burst, paced
from benchmarks.batches import batch_run, files
from benchmarks.figures import Answer, Figures, Row, Target, error_line, percentile
from benchmarks.pickup import RESERVED, latencies_ms
from benchmarks.processes import Process
from benchmarks.systems import Darkq, darkq
from darkq.protocol.keys import PartitionKeys

LINES = 100_000
CASES = (
    ("while a batch runs at a model's pace", paced(20, 20), Target("≤", 1.5)),
    ("while a batch takes all of the machine", burst(1), None),
)
_FULL = 1500


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    jobs, rows = int(200 * scale), []
    for when, prompt, target in CASES:
        try:
            busy, idle = await in_turn(url, prompt, jobs, repetitions)
        except Exception as error:
            traceback.print_exception(error)
            rows.append(Row.failed(f"pick-up, {when}", error_line(error)))
            continue
        for percent in (50, 99):
            figures, baseline = (
                Figures.of([percentile(latencies, percent) for latencies in side])
                for side in (busy, idle)
            )
            question = f"pick-up p{percent}, {when}"
            rows.append(Row(question, "ms", figures, baseline, "darkq, idle worker", target))
    return Answer(rows, [])


async def in_turn(
    url: str, prompt: str, jobs: int, repetitions: int, lines: int = LINES
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the latencies of a worker while a batch runs, and those of an idle one."""
    busy: list[list[float]] = []
    idle: list[list[float]] = []
    async with darkq(url, settings=RESERVED) as full, darkq(url) as free:
        while len(busy) < repetitions:
            with files(lines, prompt) as paths, batch_run(full, *paths) as process:
                await _has_begun(full, process)
                while len(busy) < repetitions:
                    pair = await latencies_ms(full, jobs), await latencies_ms(free, jobs)
                    if _has_ended(process):
                        break
                    busy.append(pair[0])
                    idle.append(pair[1])
            lines *= 2
    return busy, idle


async def _has_begun(system: Darkq, process: Process) -> None:
    """Wait until a batch has nearly filled its window, or has ended before that."""
    while not _has_ended(process):  # the queue is another process's
        if await system.redis.zcard(PartitionKeys(0).queue("bulk")) >= _FULL:
            return
        await asyncio.sleep(0.01)


def _has_ended(process: Process) -> bool:
    """Return whether the batch has ended. Raises `RuntimeError` if it has failed."""
    if code := process.poll():
        raise RuntimeError(f"darkq batch run ended with {code}")
    return code is not None
