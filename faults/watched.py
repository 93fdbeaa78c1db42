"""A master, its replica and three Sentinels that are killed, frozen and asked to change places.

A master that was away believes that it still is one, and takes writes, until a Sentinel tells it
otherwise: some eight seconds.
"""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from random import Random

from faults.check import Tally
from faults.stage import Setup, Stage
from faults.suite import Fault
from faults.throughout import WORKER, Blows, play
from support.daemon import Daemon
from support.waiting import wait_until

LAG_BYTES = 48 << 20  # more than the kernel keeps of a connection
LAGGING_S = 2.0
_FAILOVER_S = 30.0

_NO_WAIT = Setup(kind="sentinel", worker=WORKER)
_WAIT = Setup(kind="sentinel", worker={**WORKER, "redis_wait_replicas": 1})
_MINDFUL = Setup(("--min-replicas-to-write", "1"), "sentinel", replicas=2, worker=WORKER)


async def _replaced(stage: Stage, lost: Daemon) -> None:
    """Wait until all Sentinels name another master."""
    replaced = partial(stage.sentinel.all_have_other_master, lost)
    await wait_until("another master", replaced, _FAILOVER_S)


async def killed(promised: bool, stage: Stage, rng: Random) -> Tally:
    """SIGKILL of the master; its replica is promoted; it returns and becomes a replica."""

    async def strike(blows: Blows) -> None:
        master = await stage.sentinel.master()
        master.kill()
        blows.note()
        await _replaced(stage, master)
        await stage.sentinel.mend()

    return await play(stage, rng, strike, promised=promised)


async def frozen(promised: bool, stage: Stage, rng: Random) -> Tally:
    """SIGSTOP of the master until its replica has taken over; SIGCONT: it believes to be master.

    Red if an attempt that was claimed at one of two masters begins at the other (`may_begin` in
    append.lua), in a log that has ended: its readers then wait without an end.
    """

    async def strike(blows: Blows) -> None:
        master = await stage.sentinel.master()
        master.signal(signal.SIGSTOP)
        blows.note()
        await _replaced(stage, master)
        await asyncio.sleep(rng.uniform(0, 1))
        await stage.sentinel.mend()

    return await play(stage, rng, strike, promised=promised)


async def lagging(promised: bool, stage: Stage, rng: Random) -> Tally:
    """As in a cluster: the replica is stopped and lags, and takes over from a killed master."""

    async def strike(blows: Blows) -> None:
        master, replica = await stage.sentinel.master(), await stage.sentinel.replica()
        replica.signal(signal.SIGSTOP)
        await master.ask("SET", "darkq:{filler}", bytes(LAG_BYTES), "PX", 20_000)
        await asyncio.sleep(LAGGING_S)  # jobs are acknowledged, or are not
        master.kill()
        blows.note()
        replica.signal(signal.SIGCONT)
        await _replaced(stage, master)
        await stage.sentinel.mend()

    tally = await play(stage, rng, strike, promised=promised)
    tally.require(promised or tally.forgotten > 0, "a replica that lags does not have everything")
    return tally


async def asked(stage: Stage, rng: Random) -> Tally:
    """SENTINEL FAILOVER: for some seconds there are two masters; then one becomes a replica."""

    async def strike(blows: Blows) -> None:
        master = await stage.sentinel.master()
        await stage.sentinel.sentinels[0].ask("SENTINEL", "FAILOVER", "darkq")
        blows.note()
        await _replaced(stage, master)
        await stage.sentinel.mend()

    return await play(stage, rng, strike, promised=False)


async def few_sentinels(killed: int, stage: Stage, rng: Random) -> Tally:
    """SIGKILL of two Sentinels, or all three, while all connections are cut again and again.

    The last one still names the master. If none is left, all clients wait until the Sentinels are
    started again.
    """

    async def strike(blows: Blows) -> None:
        for sentinel in rng.sample(stage.sentinel.sentinels, killed):
            sentinel.kill()
        (master,) = [each for each in stage.sentinel.servers if await each.role() == b"master"]
        blows.note()
        for kind in ("normal", "pubsub") * 3:
            await master.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(0.2)
        await stage.sentinel.mend()

    return await play(stage, rng, strike)


FAULTS = [
    Fault("sentinel: master SIGKILL", partial(killed, False), 4, _NO_WAIT),
    Fault("sentinel: master SIGSTOP, SIGCONT", partial(frozen, False), 3, _NO_WAIT, slow=True),
    Fault(
        "sentinel: a lagging replica takes over", partial(lagging, False), 3, _NO_WAIT, slow=True
    ),
    Fault("sentinel: SENTINEL FAILOVER", asked, 3, _NO_WAIT),
    Fault(
        "sentinel: two of three Sentinels SIGKILL",
        partial(few_sentinels, 2),
        2,
        _NO_WAIT,
        slow=True,
    ),
    Fault("sentinel: all Sentinels SIGKILL", partial(few_sentinels, 3), 2, _NO_WAIT, slow=True),
    Fault(
        "sentinel, min-replicas 1: SIGSTOP, SIGCONT", partial(frozen, False), 3, _MINDFUL, slow=True
    ),
    Fault("sentinel, min-replicas 1: SENTINEL FAILOVER", asked, 3, _MINDFUL),
    Fault("sentinel, WAIT 1: master SIGKILL", partial(killed, True), 4, _WAIT, slow=True),
    Fault("sentinel, WAIT 1: master SIGSTOP, SIGCONT", partial(frozen, True), 3, _WAIT, slow=True),
    Fault("sentinel, WAIT 1: a lagging replica", partial(lagging, True), 3, _WAIT, slow=True),
]
