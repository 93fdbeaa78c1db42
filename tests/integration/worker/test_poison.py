"""A job that kills its worker, among others that do not. Real processes, killed for real."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from redis.asyncio import Redis

from darkq import Client, JobFailed, JobHandle, Settings
from darkq.protocol.keys import JobKeys
from darkq_local.local_darkai import LocalDarkAI
from support.processes import WorkerProcess
from support.waiting import wait_until

MAX_LOST_LEASES = 2
NEIGHBOURS = 3


class Crew:
    """Two workers; whoever runs the poison job dies, and is replaced."""

    def __init__(self, redis: Redis, start: Callable[[], WorkerProcess]) -> None:
        self._redis, self._start = redis, start
        self.workers = [start(), start()]
        self.deaths = 0

    async def die_of(self, poison: JobHandle, others: list[JobHandle]) -> None:
        """Kill the poison job's holder, whenever it has one, as long as it lives.

        At first only when all others run: they are to lose their leases with it.
        """
        keys = JobKeys.parse(poison.id)
        beside = [JobKeys.parse(job.id).in_progress for job in others]
        while True:
            token = await self._redis.get(keys.in_progress)
            together = self.deaths > 0 or await self._redis.exists(*beside) == len(beside)
            if token is not None and together:
                self._kill(int(token.decode().split(":")[1]))
                await wait_until("its lease to end", partial(self._changed, keys, token))
            await asyncio.sleep(0.01)

    async def _changed(self, keys: JobKeys, token: bytes) -> bool:
        return bool(await self._redis.get(keys.in_progress) != token)

    def _kill(self, pid: int) -> None:
        (victim,) = [worker for worker in self.workers if worker.pid == pid]
        self.workers.remove(victim)
        victim.send(signal.SIGKILL)
        self.deaths += 1
        self.workers.append(self._start())


@pytest.mark.slow
async def test_a_job_that_kills_its_workers_takes_no_neighbour_with_it(
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_process: Callable[[Settings], WorkerProcess],
    client: Client,
    redis: Redis,
) -> None:
    """Red when a worker runs several suspects at a time: neighbours are given up as it is."""
    darkai = await start_darkai(chunks=30, chunks_per_s=40)
    settings = make_settings(
        darkai_url=darkai.url,
        worker_lease_s=3.0,
        worker_max_lost_leases=MAX_LOST_LEASES,
        worker_poll_s=0.2,
    )
    poison, *neighbours = await client.enqueue_many(["poison", *["innocent"] * NEIGHBOURS])
    crew = Crew(redis, lambda: start_process(settings))
    killer = asyncio.create_task(crew.die_of(poison, neighbours))
    try:
        with pytest.raises(JobFailed) as caught:
            await poison.result(timeout_s=40)
        results = [await job.result(timeout_s=40) for job in neighbours]
        assert (await (await client.enqueue("later")).result(timeout_s=10)).text
    finally:
        killer.cancel()
        await asyncio.wait([killer])
    assert caught.value.code == "worker_lost"
    assert crew.deaths == MAX_LOST_LEASES + 1
    assert all(result.attempt > 1 for result in results), "all of them stood beside it once"
