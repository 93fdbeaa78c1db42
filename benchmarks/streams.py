"""Can one worker handle 1,000 live streams of 20 chunks a second?

Measures the age of a chunk when a reader has it, through the tail, and the worker's share of a
core. Only every tenth stream has a reader: more readers would saturate the core that they share
with Redis and the upstream.
"""

from __future__ import annotations

import asyncio

from benchmarks.answers import ages_us, paced
from benchmarks.figures import Answer, Figures, Row, Target, percentile
from benchmarks.machine import CpuShare
from benchmarks.systems import Darkq, all_done, darkq

STREAMS = 1000
READ = 10
PER_S = 20.0
WARM_S = 3.0


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    streams, chunks = int(STREAMS * scale), 200
    ages: list[list[float]] = []
    shares: list[float] = []
    async with darkq(url, jobs=streams) as us:
        for _ in range(repetitions):
            found, share = await _watch(us, paced(chunks, PER_S), streams, chunks)
            ages.append(found)
            shares.append(share)
            await all_done(us)
    what = f"relay of {streams:,} live streams"
    p50, p99 = (Figures.of([percentile(each, p) / 1000 for each in ages]) for p in (50, 99))
    return Answer(
        [
            Row(f"{what}, p50", "ms", p50, target=Target("≤", 2)),
            Row(f"{what}, p99", "ms", p99, target=Target("≤", 50)),
            Row(f"CPU of {streams:,} live streams", "cores", Figures.of(shares)),
        ],
        [f"{streams * PER_S:,.0f} chunks a second in all; {streams // READ:,} streams are read."],
    )


async def _watch(us: Darkq, prompt: str, streams: int, chunks: int) -> tuple[list[float], float]:
    """Return ages in µs, from when all streams have begun, and the worker's share of a core."""
    ages: list[float] = []

    async def share() -> float:
        await asyncio.sleep(WARM_S)
        ages.clear()
        cpu = CpuShare(us.pid)
        await asyncio.sleep(chunks / PER_S - 2 * WARM_S)
        return cpu()

    read = streams // READ
    watching = asyncio.create_task(share())
    await us.put(prompt, streams - read)
    await us.consume(prompt, read, chunks, lambda text, _: ages.extend(ages_us(text)))
    return ages, await watching
