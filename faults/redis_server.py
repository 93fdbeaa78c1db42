"""A Redis that is killed, frozen or paused, disconnects its clients, or loses its latest writes.

A killed process loses nothing that it has written to its append-only file, even with `everysec`:
the kernel has the data that are not synced yet. Only a crash of the machine loses them. To simulate
one, the file is truncated to its length of a second before.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

from darkq import RedisFull
from faults import forgetting
from faults.check import Tally, Watch, judge_all, require_one_attempt
from faults.forgetting import Window
from faults.load import struck, under_load
from faults.stage import Setup, Stage
from faults.suite import Fault

JOBS = 8
MAXMEMORY = 24 << 20
LARGE, LARGE_JOBS = "x" * 200_000, 600
TORN_S = 1.0
RECOVERY_LIMIT_S = 3.0
_SAMPLE_S = 0.01

_ALWAYS = Setup(redis=("--appendonly", "yes", "--appendfsync", "always"))
_IMPATIENT = Setup(worker={"redis_timeout_s": 0.7})
_DEFAULTS_SCALED = Setup(
    worker={"worker_lease_s": 2, "redis_timeout_s": 1.3, "worker_poll_s": 0.1},
    chunks=120,
    chunks_per_s=20,
)
_SMALL = Setup(
    redis=("--maxmemory", str(MAXMEMORY)),
    worker={"worker_jobs": 4, "worker_reserved_interactive": 0},
    chunks=5,
)
_EVERYSEC = Setup(
    redis=("--appendonly", "yes", "--appendfsync", "everysec"),
    # So that jobs are claimed a while after they were acknowledged.
    worker={"worker_jobs": 3, "worker_reserved_interactive": 0},
    chunks=60,
)


async def _restart(stage: Stage, down_s: float) -> None:
    await asyncio.to_thread(stage.server.kill)
    await asyncio.sleep(down_s)
    await asyncio.to_thread(stage.server.start)


async def killed(stage: Stage, rng: Random) -> Tally:
    """SIGKILL of Redis and a restart, for less or more than a lease: nothing is lost.

    Red if `Live` does not report a gap: readers wait until they read the event log anyway. A killed
    process loses nothing, so only the machine crash below tests the writer's `_resume`.
    """
    return await under_load(
        stage,
        rng,
        lambda: _restart(stage, rng.uniform(0, 2 if stage.full else 0.8)),
        recovery_limit_s=RECOVERY_LIMIT_S,
    )


async def torn(stage: Stage, rng: Random) -> Tally:
    """The machine of an `everysec` Redis crashes: it loses at most the writes of one second.

    A job is lost only if it was acknowledged within that second; its readers get an error. A job
    that ended within it may run again, as a whole. Red if a reader mistakes the new run for the old
    one, and if the writer resumes without reading the state of the event logs (`Writer._resume`).
    """
    await stage.crew(2)
    crashed_s = 0.0

    async def crash() -> None:
        nonlocal crashed_s
        await asyncio.sleep(TORN_S)
        await asyncio.to_thread(stage.server.kill)
        crashed_s = time.monotonic()
        file, size = samples.at(crashed_s - TORN_S)
        os.truncate(file, size)
        await asyncio.sleep(rng.uniform(0, 0.5))
        await asyncio.to_thread(stage.server.start)

    async with _sampling(stage) as samples:
        tally, watches = await struck(stage, rng, crash)
    excused = Window(crashed_s - TORN_S - 0.1, crashed_s)
    tally.add(await forgetting.judge_all(stage, watches, excused.covers))
    return tally


class _Samples:
    """How long the append-only file was, and when."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: list[tuple[float, Path, int]] = []

    def take(self) -> None:
        with suppress(OSError, ValueError):
            (file,) = self._directory.glob("*.incr.aof")
            self._sizes.append((time.monotonic(), file, file.stat().st_size))

    def at(self, moment_s: float) -> tuple[Path, int]:
        before = [sample for sample in self._sizes if sample[0] <= moment_s]
        _, file, size = (before or self._sizes)[-1 if before else 0]
        return file, size


@asynccontextmanager
async def _sampling(stage: Stage) -> AsyncIterator[_Samples]:
    samples = _Samples(stage.server.directory / "appendonlydir")
    samples.take()

    async def sample() -> None:
        while True:
            await asyncio.sleep(_SAMPLE_S)
            samples.take()

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()


async def frozen(stage: Stage, rng: Random) -> Tally:
    """SIGSTOP of Redis for longer than the lease.

    Attempts may begin anew after a long freeze; their texts are never mixed. Red when a claim
    that fails ends the worker (`LeasedWorker.main`).
    """
    frozen_s = 5.0 if stage.full else 1.2

    async def freeze() -> None:
        assert stage.server.process is not None
        stage.server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(frozen_s)
        stage.server.process.send_signal(signal.SIGCONT)

    return await under_load(stage, rng, freeze, recovery_limit_s=RECOVERY_LIMIT_S)


async def frozen_past_the_lease(stage: Stage, rng: Random) -> Tally:
    """SIGSTOP of Redis until every lease has lapsed: nothing begins anew, nothing is called twice.

    Red when claim.lua runs claims that their workers have given up: they wait in the server's
    sockets, it comes to them first, and they take every running job, which then does not run.
    """
    lease_s = stage.settings().worker_lease_s
    await stage.crew(2)
    watches = await stage.submit_many(JOBS)
    for watch in watches:
        await watch.until("its first words", lambda w: len(w.events) > 2)
    assert stage.server.process is not None
    stage.server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(lease_s * rng.uniform(1.1, 1.5))
    stage.server.process.send_signal(signal.SIGCONT)
    tally = await judge_all(watches, stage.model.is_whole)
    require_one_attempt(stage, watches, tally)
    return tally


async def full(stage: Stage, rng: Random) -> Tally:
    """Producers reach `maxmemory`: they get an error, jobs continue, and none is lost.

    Red if enqueue.lua uses all of the memory: then no job can be claimed.
    """
    await stage.crew(2)
    wanted = LARGE_JOBS if stage.full else LARGE_JOBS // 3
    watches: list[Watch] = []
    refused, most = 0, 0

    async def produce() -> None:
        nonlocal refused
        while len(watches) < wanted:
            prompt = stage.prompt()
            while True:
                with suppress(RedisFull):
                    job = await stage.client.enqueue(f"{prompt} {LARGE}", tries=1)
                    watches.append(Watch(job, prompt))
                    break
                refused += 1
                await asyncio.sleep(rng.uniform(0, 0.02))

    async def measure() -> None:
        nonlocal most
        while True:
            most = max(most, (await stage.redis.info("memory"))["used_memory"])
            await asyncio.sleep(_SAMPLE_S)

    measuring = asyncio.create_task(measure())
    await asyncio.gather(*(produce() for _ in range(4)))
    tally = await judge_all(watches, stage.model.is_whole)
    measuring.cancel()
    tally.require(refused > 0, "producers get an error when Redis is full")
    tally.require(most < MAXMEMORY, f"memory stays below {MAXMEMORY}: {most}")
    await stage.redis.flushall()  # results of a day would keep it full
    return tally


async def paused(stage: Stage, rng: Random) -> Tally:
    """CLIENT PAUSE, of all commands or of writes, for less or more than a call's timeout.

    Red, in a full run, when a claim that fails ends the worker (`LeasedWorker.main`).
    """

    async def pause() -> None:
        pause_ms = rng.randrange(100, 1500 if stage.full else 500)
        await stage.redis.execute_command("CLIENT PAUSE", pause_ms, rng.choice(["ALL", "WRITE"]))
        await asyncio.sleep(pause_ms / 1000)

    return await under_load(stage, rng, pause, recovery_limit_s=RECOVERY_LIMIT_S)


async def dropped(stage: Stage, rng: Random) -> Tally:
    """CLIENT KILL of all connections, again and again.

    Red when the writer gives up after a failed flush.
    """
    return await _drop(stage, rng, "normal")


async def dropped_subscribers(stage: Stage, rng: Random) -> Tally:
    """CLIENT KILL of all subscribers, again and again.

    Red when `Live` does not tell its sinks of a gap.
    """
    return await _drop(stage, rng, "pubsub")


async def _drop(stage: Stage, rng: Random, kind: str) -> Tally:
    async def drop() -> None:
        for _ in range(rng.randrange(1, 8)):
            await stage.redis.execute_command("CLIENT KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(rng.uniform(0, 0.1))

    return await under_load(stage, rng, drop, recovery_limit_s=RECOVERY_LIMIT_S)


FAULTS = [
    Fault("redis: SIGKILL, restart (fsync always)", killed, 12, _ALWAYS),
    Fault("redis: SIGKILL, restart (fsync everysec)", killed, 5, _EVERYSEC),
    Fault("redis: machine crash (fsync everysec)", torn, 6, _EVERYSEC),
    Fault("redis: CLIENT KILL of all clients", dropped, 15),
    Fault("redis: CLIENT KILL of all subscribers", dropped_subscribers, 15),
    Fault("redis: CLIENT PAUSE", paused, 5, _IMPATIENT),
    Fault("redis: SIGSTOP for 5 s", frozen, 2, _IMPATIENT),
    Fault("redis: SIGSTOP past the lease", frozen_past_the_lease, 3, _DEFAULTS_SCALED),
    Fault("redis: full, producers that never stop", full, 2, _SMALL),
]
