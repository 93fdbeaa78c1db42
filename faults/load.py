"""Work in progress, for faults that strike in its midst."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random

from faults.check import Tally, Watch, judge_all
from faults.stage import Stage

JOBS = 12
SPREAD_S = 0.6


async def under_load(
    stage: Stage,
    rng: Random,
    strike: Callable[[], Awaitable[object]],
    *,
    recovery_limit_s: float | None = None,
) -> Tally:
    """Strike at a random moment while jobs are made, run and read; `strike` returns when over.

    Recovery is the time from there to the next event of each job that was under way.
    """
    await stage.crew(2)
    tally, watches = await struck(stage, rng, strike, recovery_limit_s=recovery_limit_s)
    tally.add(await judge_all(watches, stage.model.is_whole))
    return tally


async def struck(
    stage: Stage,
    rng: Random,
    strike: Callable[[], Awaitable[object]],
    *,
    recovery_limit_s: float | None = None,
) -> tuple[Tally, list[Watch]]:
    """The same, and the watches are the caller's to judge."""
    submissions = [
        asyncio.create_task(_submit(stage, rng.uniform(0, SPREAD_S))) for _ in range(JOBS)
    ]
    await asyncio.sleep(rng.uniform(0, SPREAD_S * 1.5))  # the random moment, not a wait
    await strike()
    over_s = time.monotonic()
    watches = list(await asyncio.gather(*submissions))
    await asyncio.gather(*(watch.to_the_end() for watch in watches))
    tally = Tally()
    for watch in watches:
        recovery_s = watch.after(over_s)
        if recovery_s is not None:
            tally.recovered(recovery_s, recovery_limit_s)
    return tally, watches


async def _submit(stage: Stage, delay_s: float) -> Watch:
    await asyncio.sleep(delay_s)
    return await stage.submit()
