"""The same faults with arq alone: its defaults, its pub/sub-less result, and `stock_worker`.

Only the job timeout is changed, from 300 s to 3 s, to see a recovery in this lifetime: a dead
worker's job waits for the timeout and 10 s.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.jobs import Job

from faults.stage import Setup, Stage
from faults.stock_worker import deserialize, serialize
from support.waiting import wait_until

JOB_TIMEOUT_S = 3
MARGIN_S = 10  # arq's own: how long an in-progress key outlives the job's timeout
JOBS = 8
_ROOT = Path(__file__).parents[1]


class _World:
    """A stage with stock workers."""

    def __init__(self, stage: Stage, redis: ArqRedis) -> None:
        self.stage = stage
        self.redis = redis
        self.workers: list[subprocess.Popen[bytes]] = []
        self._jobs = 0

    async def worker(self) -> subprocess.Popen[bytes]:
        log = self._start()
        await wait_until("a stock worker", lambda: b"worker ready" in log.read_bytes())
        return self.workers[-1]

    def _start(self) -> Path:
        log = self.stage.directory / f"stock-{os.urandom(4).hex()}.log"
        arguments = [str(self.stage.server.socket), self.stage.darkai.url, str(JOB_TIMEOUT_S)]
        with log.open("wb") as output:
            self.workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "faults.stock_worker", *arguments],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=_ROOT,
                )
            )
        return log

    async def enqueue(self) -> tuple[str, Job]:
        self._jobs += 1
        prompt = f"p{self._jobs}"
        job = await self.redis.enqueue_job("generate", prompt)
        assert job is not None
        await wait_until("a stock job to run", lambda: self.stage.model.calls[prompt] == 1)
        return prompt, job


async def killed(world: _World) -> str:
    """SIGKILL of the worker."""
    victim = await world.worker()
    prompt, _ = await world.enqueue()
    await world.worker()
    victim.kill()
    killed_s = time.monotonic()
    await wait_until("the job to run again", lambda: world.stage.model.calls[prompt] == 2, 30)
    after_s = time.monotonic() - killed_s
    return (
        f"runs again after {after_s:.1f} s with a job timeout of {JOB_TIMEOUT_S} s"
        f" (timeout + {MARGIN_S} s: 310 s by default)"
    )


async def frozen(world: _World) -> str:
    """SIGSTOP until another worker has finished the job, then SIGCONT."""
    zombie = await world.worker()
    prompt, job = await world.enqueue()
    zombie.send_signal(signal.SIGSTOP)
    await world.worker()
    await wait_until("the job to run again", lambda: world.stage.model.calls[prompt] == 2, 30)
    good = await wait_until("its result", lambda: _success(job), 10)
    zombie.send_signal(signal.SIGCONT)
    await asyncio.sleep(3)  # nothing reports when a zombie is done
    now = await _success(job)
    return f"success before the zombie wakes: {good == 'True'}; after: {now == 'True'}"


async def _success(job: Job) -> str | None:
    info = await job.result_info()
    return None if info is None else str(info.success)


async def stopped(world: _World) -> str:
    """SIGTERM under load."""
    victim = await world.worker()
    started = [await world.enqueue() for _ in range(JOBS)]
    victim.send_signal(signal.SIGTERM)
    await world.worker()
    for _, job in started:
        await job.result(timeout=20)
    again = sum(world.stage.model.calls[prompt] > 1 for prompt, _ in started)
    return f"{again} of {JOBS} jobs call the upstream a second time; their text begins anew"


async def redis_killed(world: _World) -> str:
    """SIGKILL of Redis under load, and a restart."""
    worker = await world.worker()
    await world.enqueue()
    await asyncio.to_thread(world.stage.server.kill)
    await asyncio.to_thread(world.stage.server.start)
    try:
        await wait_until("the worker's end", lambda: worker.poll() is not None)
    except AssertionError:
        return "the worker lives on"
    return f"the worker exits with {worker.returncode}, and stays away"


FAULTS: list[Callable[[_World], Awaitable[str]]] = [killed, frozen, stopped, redis_killed]


@asynccontextmanager
async def _world() -> AsyncIterator[_World]:
    setup = Setup(redis=("--appendonly", "yes", "--appendfsync", "always"))
    with tempfile.TemporaryDirectory(prefix="darkq-faults-") as name:
        async with Stage(setup, Path(name) / "stock", full=True) as stage:
            redis = await create_pool(
                RedisSettings(unix_socket_path=str(stage.server.socket)),
                job_serializer=serialize,
                job_deserializer=deserialize,
            )
            world = _World(stage, redis)
            try:
                yield world
            finally:
                for worker in world.workers:
                    worker.kill()
                    worker.wait()
                await redis.aclose()


async def main() -> None:
    """Play them, once each, and say what happened."""
    print("\nstock arq")
    for fault in FAULTS:
        async with _world() as world:
            print(f"  {fault.__doc__} {await fault(world)}.", flush=True)
