"""Connections to Redis that are refused, reset, cut, stalled and slowed, for all at once."""

from __future__ import annotations

import asyncio
from random import Random

from faults.check import Tally
from faults.load import under_load
from faults.proxy import Direction
from faults.stage import Setup, Stage
from faults.suite import Fault

TIMEOUT_S = 0.7
RECOVERY_LIMIT_S = 3.0

_PROXIED = Setup(through_proxy=True, worker={"redis_timeout_s": TIMEOUT_S})


async def refused(stage: Stage, rng: Random) -> Tally:
    """Connections are refused for 20 s: workers, producers and readers recover by themselves.

    Red when a worker ends with the first claim that fails, as stock arq's does.
    """

    async def refuse() -> None:
        stage.proxy.refuse()
        await asyncio.sleep(20.0 if stage.full else 1.2)
        await stage.proxy.accept()

    return await under_load(stage, rng, refuse, recovery_limit_s=RECOVERY_LIMIT_S)


async def reset(stage: Stage, rng: Random) -> Tally:
    """All connections are reset, several times.

    Red when the writer gives up after a lost connection.
    """

    async def abort() -> None:
        for _ in range(rng.randrange(1, 6)):
            stage.proxy.abort()
            await asyncio.sleep(rng.uniform(0, 0.2))

    return await under_load(stage, rng, abort, recovery_limit_s=RECOVERY_LIMIT_S)


async def cut(stage: Stage, rng: Random) -> Tally:
    """All connections are reset after so many bytes, in the midst of a request or a reply.

    Red when a lost connection is no reason to try again, as uvloop's `RuntimeError` was not.
    """

    async def cut_often() -> None:
        for _ in range(rng.randrange(1, 6)):
            direction: Direction = rng.choice(["request", "reply"])
            stage.proxy.cut_after(rng.randrange(1, 4000), direction)
            await asyncio.sleep(0.1)
        stage.proxy.mend()

    return await under_load(stage, rng, cut_often, recovery_limit_s=RECOVERY_LIMIT_S)


async def stalled(stage: Stage, rng: Random) -> Tally:
    """Nothing passes, in one direction or both, for longer than a call's timeout, or permanently.

    Then only a timeout detects that a connection is dead. Red if the writer waits for a reply
    without one.
    """

    async def stall() -> None:
        directions: list[Direction] = ["request", "reply"]
        for direction in rng.sample(directions, rng.randrange(1, 3)):
            stage.proxy.stall(direction)
        await asyncio.sleep(rng.uniform(0.5, 2) * TIMEOUT_S)
        if stage.full and rng.random() < 0.5:  # it takes a subscriber 15 s to notice
            stage.proxy.abandon()
        stage.proxy.mend()

    return await under_load(stage, rng, stall)


async def throttled(stage: Stage, rng: Random) -> Tally:
    """Each connection is so slow, for a second and a half, that calls run into their timeout.

    Red when the writer gives up after a lost connection.
    """

    async def throttle() -> None:
        stage.proxy.throttle(rng.uniform(300, 3_000), "request")
        stage.proxy.throttle(rng.uniform(300, 3_000), "reply")
        await asyncio.sleep(1.5)
        stage.proxy.mend()

    return await under_load(stage, rng, throttle)


FAULTS = [
    Fault("connections: refused for 20 s", refused, 1, _PROXIED),
    Fault("connections: reset", reset, 15, _PROXIED),
    Fault("connections: cut after n bytes", cut, 15, _PROXIED),
    Fault("connections: stalled", stalled, 6, _PROXIED),
    Fault("connections: throttled", throttled, 6, _PROXIED),
]
