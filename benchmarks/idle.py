"""What does a slow stream cost a worker: one chunk every two seconds?

3,000 streams on one worker: the memory of a stream, and the share of a core that all of them use,
with heartbeats. The drain is the lower bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from benchmarks.answers import paced
from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import CpuShare, rss_bytes
from benchmarks.processes import Process, child, go, module, read_line
from benchmarks.systems import darkq, naive_arq

STREAMS = 3000
PER_S = 0.5
SETTLE_S = 12.0


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    streams, watch_s = int(STREAMS * scale), 10 * scale
    prompt = paced(1000, PER_S)
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repetitions):
        for running in (darkq, naive_arq):
            async with running(url, jobs=streams) as system:
                watched = _watch(system.pid, streams, watch_s, partial(system.put, prompt, streams))
                found.setdefault(system.name, []).append(await watched)
        with child(*module("drain", url, prompt, streams, "decoded")) as process:
            read_line(process)
            watched = _watch(process.pid, streams, watch_s, partial(_go, process))
            found.setdefault("drain", []).append(await watched)
    memory = {name: Figures.of([kb for kb, _ in pairs]) for name, pairs in found.items()}
    cpu = {name: Figures.of([share for _, share in pairs]) for name, pairs in found.items()}
    rows = []
    for what, unit, figures, target in (
        (f"memory per idle stream, {streams:,} of them", "KB", memory, Target("≤", 16)),
        (f"CPU of {streams:,} idle streams", "cores", cpu, Target("≤", 0.25 * streams / 3000)),
    ):
        ours = figures["darkq"]
        rows += [
            Row(what, unit, ours, target=target),
            Row(what, unit, ours, figures["drain"], "bare aiohttp drain"),
            Row(what, unit, ours, figures["naive arq"], "naive arq"),
        ]
    return Answer(
        rows, ["The target of CPU is a quarter of a core for 3,000 streams, in proportion."]
    )


async def _go(process: Process) -> None:
    go(process)


async def _watch(
    pid: int, streams: int, watch_s: float, begin: Callable[[], Awaitable[None]]
) -> tuple[float, float]:
    """Return KB per stream, and the share of a core that all use, once all have begun."""
    before = rss_bytes(pid)
    await begin()
    await asyncio.sleep(SETTLE_S)
    cpu = CpuShare(pid)
    await asyncio.sleep(watch_s)
    return (rss_bytes(pid) - before) / streams / 1024, cpu()
