"""Plays faults, run after run, and adds up what became of the promises."""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from redis.exceptions import RedisError

from darkq import DarkqError
from darkq.redis.pool import brief
from faults.check import Tally
from faults.stage import Setup, Stage

RUN_LIMIT_S = 90.0

Play: TypeAlias = Callable[[Stage, random.Random], Awaitable[Tally]]


class Fault(NamedTuple):
    """Something that goes wrong, and how often it does in a full run.

    `limit_s` is for one run: one that takes longer has hung. A `slow` one is not for the tests.
    """

    name: str
    play: Play
    runs: int
    setup: Setup = Setup()
    limit_s: float = RUN_LIMIT_S
    slow: bool = False


class Row(NamedTuple):
    """What became of one fault in all its runs."""

    fault: Fault
    runs: int
    tally: Tally

    @property
    def kept(self) -> bool:
        """Tell whether every promise was kept."""
        tally = self.tally
        return not (tally.lost or tally.duplicated or tally.mixed or tally.wrong or tally.broken)


async def play(
    faults: Iterable[Fault],
    *,
    seed: int,
    full: bool,
    runs: int | None = None,
    report: Callable[[Row], object] = lambda _: None,
) -> list[Row]:
    """Play every fault as often as it says, or `runs` times, or once unless `full`."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="darkq-faults-") as name:
        groups = itertools.groupby(faults, key=lambda fault: fault.setup)
        for number, (setup, group) in enumerate(groups):
            async with Stage(setup, Path(name) / str(number), full=full) as stage:
                for fault in group:
                    times = runs or (fault.runs if full else 1)
                    row = Row(fault, times, await _play_one(fault, stage, seed, times))
                    report(row)
                    rows.append(row)
    return rows


async def _play_one(fault: Fault, stage: Stage, seed: int, runs: int) -> Tally:
    total = Tally()
    for run in range(runs):
        tally, hung = Tally(), True
        try:
            async with asyncio.timeout(fault.limit_s):
                tally = await fault.play(stage, random.Random(f"{seed}:{fault.name}:{run}"))
            await stage.nothing_left()
            hung = False
        except AssertionError as error:  # something did not happen in time
            tally.broken.append(str(error))
        except TimeoutError:
            tally.broken.append(f"did not end within {fault.limit_s:g} s")
        except DarkqError as error:
            tally.broken.append(f"a caller got {type(error).__name__}")
        except RedisError as error:  # darkq must not let one out
            tally.broken.append(f"a caller got {brief(error)}")
        tally.broken = [f"run {run}: {words}" for words in tally.broken]
        total.add(tally)
        if hung:  # once is enough to know; the next fault begins on a clean stage
            await stage.clear()
            break
    return total
