"""Does memory grow in half an hour: of a worker, a reader, Redis?

50 streams at the pace of a model, whose readers disconnect and resume, and 10 callers with short
jobs one after another. Results are kept for ten seconds, so the size of Redis can stay constant.
Memory is sampled every five seconds. The result is the median of the last quarter of the time; the
baseline is that of the second quarter, after the warm-up.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import THE_REST, rss_bytes
from benchmarks.processes import child, module
from benchmarks.systems import Darkq, darkq

MINUTES = 30.0
LOOK_S = 5.0
MAX_GROWTH = 1.05
SHORT_LIVED = {"DARKQ_RESULT_TTL_S": "10", "DARKQ_JOB_TTL_S": "60"}


async def answer(url: str, _: int, scale: float) -> Answer:
    seen: dict[str, list[float]] = {"worker": [], "reader": [], "Redis": []}
    async with darkq(url, settings=SHORT_LIVED) as system:
        command = module("soak_load", system.redis_url)
        with child(*command, role=THE_REST) as load:
            ends_s = time.monotonic() + MINUTES * 60 * scale
            while time.monotonic() < ends_s:
                await asyncio.sleep(LOOK_S)
                assert load.poll() is None, "the load has ended"
                seen["worker"].append(rss_bytes(system.pid) / 2**20)
                seen["reader"].append(rss_bytes(load.pid) / 2**20)
                seen["Redis"].append(await _used_mb(system))
        jobs = await _ended(system)
    rows = [
        Row(
            f"memory of the {name} at the end",
            "MB",
            Figures.of([_median(looks, 3)]),
            Figures.of([_median(looks, 1)]),
            "after a quarter of the time",
            Target("≤", MAX_GROWTH),
        )
        for name, looks in seen.items()
    ]
    return Answer(rows, [f"{MINUTES * scale:g} minutes, {jobs:,} jobs."])


def _median(looks: list[float], quarter: int) -> float:
    size = len(looks) // 4
    return statistics.median(looks[quarter * size : (quarter + 1) * size])


async def _used_mb(system: Darkq) -> float:
    return float((await system.redis.info("memory"))["used_memory"]) / 2**20


async def _ended(system: Darkq) -> int:
    """Return the number of ended jobs: each is removed from its queue once."""
    return int((await system.redis.info("commandstats"))["cmdstat_zrem"]["calls"])
