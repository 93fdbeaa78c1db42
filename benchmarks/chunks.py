"""How many chunks a second does one worker process handle, if the upstream never waits?

100 concurrent streams, each counted by a reader: through darkq's tail, which reports how many
chunks an event has; for naive arq, on its channels. darkq is timed from the enqueue to the last
chunk, naive arq from the first chunk, so that its poll is not counted. The drain reads the same
streams without a queue.
"""

from __future__ import annotations

import time

from benchmarks.answers import burst
from benchmarks.figures import Answer, Figures, Row, Target, number
from benchmarks.machine import CpuShare
from benchmarks.processes import measure, module
from benchmarks.systems import System, darkq, naive_arq

STREAMS = 100


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    fast, slow = int(10_000 * scale), int(400 * scale)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    drains: list[tuple[float, float]] = []
    raw: list[float] = []
    async with darkq(url, jobs=STREAMS) as us, naive_arq(url, jobs=STREAMS) as them:
        for _ in range(repetitions):
            ours.append(await rate(us, fast, from_enqueue=True))
            theirs.append(await rate(them, slow, from_enqueue=False))
            drained = measure(*module("drain", url, burst(fast), STREAMS, "decoded"))
            assert drained["chunks"] == STREAMS * fast, "chunks are missing"
            drains.append(
                (drained["chunks"] / drained["s"], drained["cpu_s"] / drained["chunks"] * 1e6)
            )
            counted = measure(*module("drain", url, burst(fast), STREAMS, "raw"))
            raw.append(counted["chunks"] / counted["s"])
    us_rate, us_cpu = map(Figures.of, zip(*ours, strict=True))
    them_rate, them_cpu = map(Figures.of, zip(*theirs, strict=True))
    drain_rate, drain_cpu = map(Figures.of, zip(*drains, strict=True))
    what, cost = "chunks through one worker", "worker's CPU per million chunks"
    return Answer(
        [
            Row(what, "1/s", us_rate, them_rate, "naive arq", Target("≥", 40)),
            Row(what, "1/s", us_rate, drain_rate, "bare aiohttp drain", Target("≥", 0.6)),
            Row(cost, "s", us_cpu, them_cpu, "naive arq"),
            Row(cost, "s", us_cpu, drain_cpu, "bare aiohttp drain"),
        ],
        [
            f"The upstream alone, read by a socket that only counts: {Figures.of(raw)} chunks/s, "
            f"{number(Figures.of(raw).median / us_rate.median)} times what darkq took."
        ],
    )


async def rate(system: System, chunks: int, *, from_enqueue: bool) -> tuple[float, float]:
    """Return chunks per second, and the worker's CPU seconds per million chunks."""
    begin_s = last_s = time.monotonic() if from_enqueue else 0.0
    counted = 0

    def seen(_: str, merged: int) -> None:
        nonlocal begin_s, last_s, counted
        last_s = time.monotonic()
        begin_s = begin_s or last_s
        counted += merged

    cpu = CpuShare(system.pid)
    await system.consume(burst(chunks), STREAMS, chunks, seen)
    return counted / (last_s - begin_s), cpu.used_s() / counted * 1e6
