"""Hosts whose clocks are minutes apart."""

from __future__ import annotations

import signal
import time
from random import Random

from faults.check import Tally, judge_all
from faults.stage import LEASE_S, Setup, Stage, is_ready
from faults.suite import Fault

SKEW_S = 300
JOBS = 8

_SKEWED = Setup(chunks=50)  # a stage of its own: no other fault may get such workers


def _prelude(skew_s: int) -> str:
    return f"import time; _now = time.time; time.time = lambda: _now() + {skew_s}"


async def skewed(stage: Stage, rng: Random) -> Tally:
    """Two workers whose clocks are 5 minutes fast and slow; one is killed: no difference.

    Red when a claim compares scores with the worker's clock, as stock arq's does.
    """
    await stage.crew(0)
    skews = [SKEW_S, -SKEW_S]
    rng.shuffle(skews)
    for skew_s in skews:
        stage.start_worker(_prelude(skew_s))
    for worker in stage.workers:
        await is_ready(worker)
    watches = await stage.submit_many(JOBS, tries=2)
    await watches[0].until("some words", lambda watch: len(watch.events) > rng.randrange(2, 10))
    stage.workers[0].send(signal.SIGKILL)
    killed_s = time.monotonic()
    tally = await judge_all(watches, stage.model.is_whole)
    for watch in watches:
        recovery_s = watch.restarted(killed_s)
        if recovery_s is not None:
            tally.recovered(recovery_s, LEASE_S + 1)
        tally.require(watch.attempts <= 2, "only a death makes an attempt begin anew")
    return tally


FAULTS = [Fault("clocks: workers 10 min apart, one killed", skewed, 3, _SKEWED)]
