"""A gateway under attack: a tenant that does no harm goes on beside it, and memory is bounded.

Each row runs a gateway of its own; the attackers are another process. The columns `p50 s` and
`p99 s` are what a request of the healthy tenant took; below the row are all figures. In a short run
the promises about time are only those that a machine with other work can keep.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any, NamedTuple

from faults.check import Tally
from faults.neighbour import Neighbour
from faults.stage import Setup, Stage, is_ready
from faults.suite import Fault
from faults.table import quantile
from support.attackers import HELD, attackers
from support.processes import GatewayProcess
from support.waiting import wait_until

MAX_MEMORY_BYTES = 200 << 20
TIMEOUT_S = 1.0
DRAIN_S = 0.5


class Limits(NamedTuple):
    """What is promised, of a run of so many seconds."""

    for_s: float
    p99_s: float
    ends_within_s: float


FULL = Limits(15.0, p99_s=0.1, ends_within_s=2.0)
SHORT = Limits(2.0, p99_s=2.0, ends_within_s=15.0)

_SETUP = Setup(worker={"worker_jobs": 200}, chunks=60)
_SETTINGS = {
    "gateway_port": 0,
    "gateway_read_timeout_s": TIMEOUT_S,
    "gateway_write_timeout_s": TIMEOUT_S,
    "gateway_drain_s": DRAIN_S,
}


async def bombs(stage: Stage, rng: Random) -> Tally:
    """Eight at once of 4 MB of gzip that are 4 GiB, with a key and without.

    Red with `auto_decompress=True`: no answer for seconds, and no end at SIGTERM.
    """
    return await _under_attack("bombs", stage)


async def uploads(stage: Stage, rng: Random) -> Tally:
    """Eight hostile multipart uploads at once, beside eight bombs.

    Red without the bounds on what is not the file (`multipart.MAX_OVERHEAD_BYTES` and those beside
    it), in a full run: 0.6 s.
    """
    return await _under_attack("bodies", stage)


async def deaf(stage: Stage, rng: Random) -> Tally:
    """Clients that take nothing: 500 without a key, 50 of a large file; all are replaced.

    Red without `Connection.pause_writing`: they stay.
    """
    return await _under_attack("deaf", stage, closes=HELD)


async def slow(stage: Stage, rng: Random) -> Tally:
    """150 clients that read a large file in steps of 4 KB, just fast enough to stay connected.

    Red with files that are read in pieces of 1 MiB (`files._PIECE_BYTES`): over 200 MB of memory.
    """
    return await _under_attack("slow", stage, gateway_write_timeout_s=5 * TIMEOUT_S)


async def halves(stage: Stage, rng: Random) -> Tally:
    """500 clients that send half of a request, then single bytes of it; all are disconnected.

    Red without `Connection._expect_head`: they stay connected.
    """
    return await _under_attack("halves", stage, closes=HELD)


async def idle(stage: Stage, rng: Random) -> Tally:
    """500 clients that connect and send nothing; all are replaced.

    Red without `Connection._expect_head`: they stay for 75 s.
    """
    return await _under_attack("idle", stage, closes=HELD)


async def heads(stage: Stage, rng: Random) -> Tally:
    """Pipelines of 200 HEADs, eight at once, of streams too.

    Red without `allow_head=False` on streams: what comes is more than 200 heads, or fewer.
    """
    return await _under_attack("heads", stage)


async def storm(stage: Stage, rng: Random) -> Tally:
    """Callers of another tenant create, read, cancel, run again and delete at once, and leave.

    Red where two such calls that meet are a 500.
    """
    return await _under_attack("storm", stage)


async def _under_attack(kind: str, stage: Stage, *, closes: int = 0, **settings: Any) -> Tally:
    """Play one kind of attack; the gateway must have closed so many connections by itself."""
    limits = FULL if stage.full else SHORT
    await stage.crew(1)
    async with _keys(stage) as (healthy, hostile), _gateway(stage, settings) as gateway:
        async with (
            attackers(kind, gateway.url, hostile) as attack,
            Neighbour(stage, gateway.url, healthy) as neighbour,
        ):
            await asyncio.sleep(limits.for_s)  # how long the attack goes on, not a wait
            await wait_until("the attackers to have an answer", attack.counted)
            await neighbour.finish()
            counted, peak_bytes = await attack.counted(), gateway.peak_bytes
            began_s = time.monotonic()
            gateway.send(signal.SIGTERM)
            code = await gateway.wait()
            ended_s = time.monotonic() - began_s
        log = gateway.log.read_text()
    tally = neighbour.tally
    tally.recoveries_s += neighbour.requests_s
    figures = {
        "request_p99_s": quantile(neighbour.requests_s, 0.99),
        "stream_gap_p99_s": quantile(neighbour.gaps_s, 0.99),
        "sigterm_s": ended_s,
        "peak_mb": peak_bytes / (1 << 20),
    }
    tally.figures.append({name: round(value or 0.0, 4) for name, value in figures.items()})
    for name in ("request_p99_s", "stream_gap_p99_s"):
        took_s = figures[name]
        is_short = took_s is not None and took_s <= limits.p99_s
        tally.require(is_short, f"{name} is at most {limits.p99_s:g}: {took_s}")
    in_time = ended_s <= limits.ends_within_s
    tally.require(in_time, f"it ends {limits.ends_within_s:g} s after SIGTERM: {ended_s:.1f} s")
    tally.require(code == 0, f"it ends in good order: exit code {code}")
    tally.require(peak_bytes <= MAX_MEMORY_BYTES, f"memory is bounded: {peak_bytes >> 20} MB")
    tally.require(" ERROR " not in log and "Traceback" not in log, "no error is in the log")
    _judge_counts(tally, counted, closes)
    return tally


def _judge_counts(tally: Tally, counted: Counter[str], closes: int) -> None:
    tally.require(bool(counted), "the attackers have got somewhere")
    errors = {name: count for name, count in counted.items() if name.startswith("status 5")}
    tally.require(not errors, f"an attacker gets no 5xx: {errors}")
    tally.require(not counted["wrong pipelines"], "a response to each request, and no more")
    closed = counted["closed"]
    tally.require(closed >= closes, f"{closes} connections are closed: {closed}")


@asynccontextmanager
async def _keys(stage: Stage) -> AsyncIterator[tuple[str, str]]:
    """Make keys of two tenants for the length of the block."""
    keys = stage.client.api_keys
    healthy, healthy_secret = await keys.create("healthy", tenant="healthy")
    hostile, hostile_secret = await keys.create("hostile", tenant="hostile")
    try:
        yield healthy_secret, hostile_secret
    finally:
        await keys.revoke(healthy.id)
        await keys.revoke(hostile.id)


@asynccontextmanager
async def _gateway(stage: Stage, settings: Mapping[str, Any]) -> AsyncIterator[GatewayProcess]:
    log = stage.directory / f"gateway-{os.urandom(4).hex()}.log"
    gateway = GatewayProcess(stage.settings(**{**_SETTINGS, **settings}), log)
    try:
        await is_ready(gateway)
        yield gateway
    finally:
        gateway.end()


FAULTS = [
    Fault("abuse: gzip bombs", bombs, 1, _SETUP),
    Fault("abuse: 8 hostile uploads beside 8 bombs", uploads, 1, _SETUP),
    Fault("abuse: 550 clients that take nothing", deaf, 1, _SETUP),
    Fault("abuse: 150 clients that take little", slow, 1, _SETUP),
    Fault("abuse: 500 halves of requests", halves, 1, _SETUP),
    Fault("abuse: 500 connections without a request", idle, 1, _SETUP),
    Fault("abuse: pipelines of HEAD", heads, 1, _SETUP),
    Fault("abuse: storm of create, cancel, delete", storm, 1, _SETUP),
]
