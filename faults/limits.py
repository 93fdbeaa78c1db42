"""An upstream that counts its calls at once, while Redis is away for two leases.

Calls go on while Redis is away, and their leases run out there. The upstream allows two at once.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

from faults.check import Tally, judge_all
from faults.stage import LEASE_S, Setup, Stage
from faults.suite import Fault
from support.waiting import wait_until

CONCURRENCY = 2
_JOBS = 4
_AWAY_S = 2 * LEASE_S + 0.2

_COUNTED = Setup(
    redis=("--appendonly", "yes", "--appendfsync", "always"),
    worker={"redis_timeout_s": 0.7, "darkai_concurrency": CONCURRENCY},
    chunks=120,
    chunks_per_s=30,
)


async def counted(away: Callable[[Stage], Awaitable[None]], stage: Stage, rng: Random) -> Tally:
    """Never one call too many.

    Red with `XX` in `renew` of limit_report.lua, and after SIGKILL without the respite.
    """
    model = stage.model
    model.most_at_once = 0
    await stage.crew(2)
    watches = await stage.submit_many(_JOBS)
    await wait_until("as many calls as allowed", lambda: model.at_once == CONCURRENCY)
    await asyncio.sleep(rng.uniform(0, 0.3))  # the random moment, not a wait
    await away(stage)
    tally = Tally()
    tally.require(model.at_once == CONCURRENCY, "the calls go on meanwhile")
    await asyncio.gather(*(watch.to_the_end() for watch in watches))
    tally.add(await judge_all(watches, model.is_whole))
    most = model.most_at_once
    tally.require(most <= CONCURRENCY, f"{CONCURRENCY} calls at once, not {most}")
    tally.require(most == CONCURRENCY, f"what is allowed is used: {most}")
    return tally


async def _kill(stage: Stage) -> None:
    await asyncio.to_thread(stage.server.kill)
    await asyncio.sleep(_AWAY_S)
    await asyncio.to_thread(stage.server.start)


async def _freeze(stage: Stage) -> None:
    assert stage.server.process is not None
    stage.server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(_AWAY_S)
    stage.server.process.send_signal(signal.SIGCONT)


FAULTS = [
    Fault("limits: redis SIGKILL for two leases", partial(counted, _kill), 4, _COUNTED),
    Fault("limits: redis SIGSTOP for two leases", partial(counted, _freeze), 4, _COUNTED),
]
