"""What does a chunk cost at the pace of a model: 100 streams, 20 chunks a second each?

Measures the worker's processor time. At this load chunks rarely wait for each other, so each one is
a separate event; with linger, a chunk may wait for the next ones, of its own and of other streams.
The drain reads the same streams without a queue.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from benchmarks.answers import paced
from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import CpuShare
from benchmarks.processes import measure, module
from benchmarks.systems import System, darkq, naive_arq

STREAMS = 100
PER_S = 20.0
LINGER_S = 0.005


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    chunks = int(100 * scale)
    prompt = paced(chunks, PER_S)
    found: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        systems: dict[str, System] = {
            "darkq": await stack.enter_async_context(darkq(url, jobs=STREAMS)),
            "with linger": await stack.enter_async_context(
                darkq(url, jobs=STREAMS, settings={"DARKQ_WORKER_LINGER_S": str(LINGER_S)})
            ),
            "naive arq": await stack.enter_async_context(naive_arq(url, jobs=STREAMS)),
        }
        for _ in range(repetitions):
            for name, system in systems.items():
                found.setdefault(name, []).append(await _cost(system, prompt, chunks))
            drained = await asyncio.to_thread(
                measure, *module("drain", url, prompt, STREAMS, "decoded")
            )
            found.setdefault("drain", []).append(drained["cpu_s"] / drained["chunks"] * 1e6)
    figures = {name: Figures.of(values) for name, values in found.items()}
    ours, drain, naive = figures["darkq"], figures["drain"], figures["naive arq"]
    lingering = f"worker's CPU per million paced chunks, {LINGER_S * 1000:g} ms of linger"
    what = "worker's CPU per million paced chunks"
    return Answer(
        [
            Row(what, "s", ours, drain, "bare aiohttp drain", Target("≤", 2)),
            Row(what, "s", ours, naive, "naive arq", Target("≤", 0.5)),
            Row(lingering, "s", figures["with linger"], ours, "darkq without"),
            Row(lingering, "s", figures["with linger"], drain, "bare aiohttp drain"),
        ],
        [],
    )


async def _cost(system: System, prompt: str, chunks: int) -> float:
    """Return the worker's CPU seconds per million chunks."""
    cpu = CpuShare(system.pid)
    await system.consume(prompt, STREAMS, chunks, lambda *_: None)
    return cpu.used_s() / (STREAMS * chunks) * 1e6
