"""A thousand requests of ten tenants at once, cut off, cancelled, resumed and asked again: nobody
hears what is another's, every job ends as it should, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq_gateway.serve import gateway
from darkq_local.local_darkai import LocalDarkAI
from support.echo_model import EchoModel
from support.forked import forker
from support.http_api import Api
from support.leaks import keys_without_ttl
from support.storm import TERMINAL, Tenant
from support.waiting import wait_until

SEED = 20261124
TENANTS = 10
REQUESTS = 100  # of each tenant
AT_ONCE = 10  # of each tenant
GRACE_S = 1.0
MAX_GROWTH_BYTES = 64 << 20


@pytest.mark.timeout(300)
@pytest.mark.slow
async def test_nobody_hears_what_is_anothers_and_nothing_is_left(
    make_settings: Callable[..., Settings], redis: Redis, start_process: Any
) -> None:
    print(f"seed {SEED}")
    forker()  # the processes of this test have one, which stays
    tasks, files = asyncio.all_tasks(), _open_files()
    settings = make_settings(
        gateway_port=0,
        gateway_cancel_grace_s=GRACE_S,
        worker_jobs=500,
        worker_reserved_interactive=0,
        retry_base_s=0.01,
    )
    async with LocalDarkAI(EchoModel()) as upstream, Client(settings=settings) as client:
        worker = start_process(settings.model_copy(update={"darkai_url": upstream.url}))
        await wait_until("the worker", lambda: worker.ready)
        async with _tenants(settings, client) as tenants:
            memory = _memory_bytes()
            await _storm(tenants)
            await _all_ended(client, tenants)
            await _check(client, tenants)
            assert _memory_bytes() - memory < MAX_GROWTH_BYTES
        worker.end()
        held = [key async for key in redis.scan_iter("darkq:use:*:calls")]
        assert not held, "places of calls are held that have ended"
    await wait_until("the tasks end", lambda: asyncio.all_tasks() <= tasks)
    await wait_until("the sockets close", lambda: _open_files() <= files)
    assert not await keys_without_ttl(redis)


@asynccontextmanager
async def _tenants(settings: Settings, client: Client) -> AsyncIterator[list[Tenant]]:
    async with AsyncExitStack() as stack:
        names = [f"tenant{number}" for number in range(TENANTS)]
        keys = [(await client.api_keys.create(name, concurrency=500))[1] for name in names]
        url = await stack.enter_async_context(gateway(settings))
        yield [
            Tenant(name, await stack.enter_async_context(Api(url, key)))
            for name, key in zip(names, keys, strict=True)
        ]


async def _storm(tenants: list[Tenant]) -> None:
    async def rage(tenant: Tenant, at_once: asyncio.Semaphore, number: int) -> None:
        rng = random.Random(f"{SEED} {tenant.name} {number}")
        async with at_once:
            await tenant.storm(rng, number)
            other = rng.choice([each for each in tenants if each is not tenant])
            if rng.random() < 0.1 and other.ids:
                await tenant.steal(rng.choice(sorted(other.ids)))

    async with asyncio.TaskGroup() as group:
        for tenant in tenants:
            at_once = asyncio.Semaphore(AT_ONCE)
            for number in range(REQUESTS):
                group.create_task(rage(tenant, at_once, number))


async def _all_ended(client: Client, tenants: list[Tenant]) -> None:
    async def ended() -> bool:
        found = [await client.jobs(tenant=tenant.name, limit=1000) for tenant in tenants]
        return all(job.state in TERMINAL for jobs in found for job in jobs)

    await wait_until("every job has ended, also those whose clients have left", ended, 3 + GRACE_S)


async def _check(client: Client, tenants: list[Tenant]) -> None:
    for tenant in tenants:
        jobs = {job.job_id: job for job in await client.jobs(tenant=tenant.name, limit=1000)}
        assert tenant.ids <= jobs.keys(), "an id that is another's was heard"
        for job_id, text in tenant.texts.items():
            assert (await client.job(job_id).result(timeout_s=5)).text == text
        assert {jobs[job_id].state for job_id in tenant.cancelled} <= {"cancelled"}
        slow = [job.state for job in jobs.values() if "slow" in str(job.metadata)]
        assert set(slow) == {"cancelled"}


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
