"""Work that goes on throughout a fault that takes seconds: a failover, a move of slots.

Producers make jobs in all partitions, each with an idempotency key, until it is over; one whose
call failed says the same again. Some readers come late, some leave in the midst and return.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from random import Random
from typing import TypeAlias

from darkq import Client
from darkq.protocol.keys import JobKeys
from faults import forgetting
from faults.check import Tally, Watch
from faults.forgetting import Window
from faults.stage import Stage

PARTITIONS = 6
WORKER = {
    "partitions": PARTITIONS,
    "worker_lease_s": 2,
    "worker_max_lost_leases": 100,  # a lease so short is lost more often in an outage
    "redis_timeout_s": 1,
}
_EVERY_S = (0.04, 0.12)
_EVERY_SHORT_S = (0.1, 0.25)
_BEFORE_S = (0.6, 1.2)
_AFTER_S = 0.5
_MARGIN_S = 0.2


class Blows:
    """When servers were lost, and which partitions had been theirs."""

    def __init__(self) -> None:
        self._notes: list[tuple[float, Collection[int]]] = []

    def note(self, partitions: Collection[int] = range(PARTITIONS)) -> None:
        """Now, and these."""
        self._notes.append((time.monotonic(), partitions))

    def recoveries_s(self, watch: Watch) -> list[float]:
        """How long the readers of a job that was under way waited for its next event."""
        partition = JobKeys.parse(watch.job.id).partition
        waits = (watch.after(at_s) for at_s, hit in self._notes if partition in hit)
        return [wait_s for wait_s in waits if wait_s is not None]


Strike: TypeAlias = Callable[[Blows], Awaitable[object]]


async def play(
    stage: Stage,
    rng: Random,
    strike: Strike,
    *,
    promised: bool = True,
    client: Client | None = None,
    crew: int = 2,
) -> Tally:
    """Strike at a random moment; `strike` returns when everything is repaired.

    Unless it is `promised` that nothing is lost, jobs acknowledged meanwhile may be lost. All
    producers and readers use one client, the stage's own or another.
    """
    await stage.crew(crew)
    await stage.settled()  # else a replica without the data of the run before is promoted
    feeding = asyncio.create_task(_feed(stage, rng, client))
    try:
        await asyncio.sleep(rng.uniform(*_BEFORE_S))  # the random moment, not a wait
        blows, since_s = Blows(), time.monotonic()
        await strike(blows)
        until_s = time.monotonic()
        await asyncio.sleep(_AFTER_S)  # so that there are jobs of the time after it
    finally:
        feeding.cancel()
    watches = await asyncio.gather(*await feeding)
    excused = Window(since_s - _MARGIN_S, until_s).covers
    tally = await forgetting.judge_all(stage, watches, forgetting.nothing if promised else excused)
    for watch in watches:
        for recovery_s in blows.recoveries_s(watch):
            tally.recovered(recovery_s)
    return tally


async def _feed(stage: Stage, rng: Random, client: Client | None) -> list[asyncio.Task[Watch]]:
    """Submit jobs until cancelled, each when its time has come, and return them all."""
    every_s = _EVERY_S if stage.full else _EVERY_SHORT_S
    submissions: list[asyncio.Task[Watch]] = []
    try:
        while True:
            submitting = stage.submit(client=client, rests=_habit(rng), tries=3)
            submissions.append(asyncio.create_task(submitting))
            await asyncio.sleep(rng.uniform(*every_s))
    except asyncio.CancelledError:
        return submissions


def _habit(rng: Random) -> Callable[[int], float]:
    """One reader of three comes late, one leaves and returns, twice; one just reads."""
    kind = rng.randrange(3)
    if kind == 0:
        rests = {0: rng.uniform(0.1, 2.0)}
    elif kind == 1:
        rests = {rng.randrange(1, 30): rng.uniform(0.05, 1.0) for _ in range(2)}
    else:
        rests = {}
    return lambda events: rests.get(events, 0.0)
