"""`darkq queues move`, the real command: killed many times, and asked in every other way."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Job, Settings
from darkq_local.local_darkai import LocalDarkAI
from support.command import Darkq, Done
from support.processes import WorkerProcess
from support.servers import Server
from support.waiting import wait_until

JOBS = 900  # the local DarkAI remembers its last 1,000 calls
KILLS = 8


async def call(darkq: Darkq, *arguments: str, **options: Any) -> Done:
    return await asyncio.to_thread(darkq, *arguments, **options)


async def hold(client: Client, jobs: int) -> list[str]:
    handles = await client.enqueue_many(Job.create(f"{n}", priority="bulk") for n in range(jobs))
    await client.queue("bulk").pause()
    await client.queue("bulk").close()
    return [job.id for job in handles]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_many_times_no_job_is_lost_and_none_is_run_twice(
    darkq: Darkq,
    client: Client,
    there: Redis,
    other_server: Server,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_process: Callable[[Settings], WorkerProcess],
) -> None:
    """A worker at the target runs the jobs as they come; its calls are counted."""
    ids, rng = await hold(client, JOBS), random.Random(7)
    darkai = await start_darkai(chunks=1)
    settings = make_settings(redis_url=other_server.url, darkai_url=darkai.url, worker_jobs=20)
    start_process(settings)
    command = ("queues", "move", "bulk", "--to-url", other_server.url)

    async def arrived() -> int:
        return sum([1 async for _ in there.scan_iter("darkq:moved:*", count=1000)])

    for _ in range(KILLS):
        before = await arrived()
        mover = darkq.start(*command)
        more = before + rng.randrange(1, JOBS // KILLS)

        async def is_far_enough(goal: int = more, mover: Any = mover) -> bool:
            return await arrived() >= goal or mover.has_ended

        await wait_until("some more jobs", is_far_enough, 30)
        mover.send(signal.SIGKILL)
        await asyncio.to_thread(mover.done)
    done = await call(darkq, *command, "--json")
    assert done.code == 0, done.err
    async with Client(settings=settings) as target:
        results = [await target.job(job_id).result(timeout_s=60) for job_id in ids]
    assert {result.attempt for result in results} == {1}
    assert len(darkai.exchanges) == JOBS
    standing = await client.queue("bulk").status()
    assert (standing.waiting, standing.moving) == (0, 0)


@pytest.mark.slow
async def test_ctrl_c_says_how_to_go_on_and_goes_on(
    darkq: Darkq, client: Client, there: Redis, other_server: Server
) -> None:
    await hold(client, 3000)
    mover = darkq.start("queues", "move", "bulk", "--to-url", other_server.url)

    async def some() -> bool:
        return bool(await there.zcard("darkq:{0}:bulk"))

    await wait_until("some jobs", some)
    mover.send(signal.SIGINT)
    done = await asyncio.to_thread(mover.done)
    assert done.code == 130
    assert "repeat the command" in done.err
    url = {"DARKQ_MOVE_TO_URL": other_server.url}
    again = await call(darkq, "queues", "move", "bulk", environment=url)
    assert again.code == 0
    assert await there.zcard("darkq:{0}:bulk") == 3000


async def test_dry_run_counts_and_changes_nothing(
    darkq: Darkq, client: Client, there: Redis, other_server: Server
) -> None:
    await hold(client, 5)
    command = ("queues", "move", "bulk", "--to-url", other_server.url)
    (told,) = (await call(darkq, *command, "--dry-run", "--json")).objects
    assert (told["moved"], told["dry_run"]) == (5, True)
    assert not await there.keys("*")
    done = await call(darkq, *command, "--limit", "2")
    assert done.code == 0
    assert "jobs moved              2" in done.out.decode()
    assert (await client.queue("bulk").status()).waiting == 3


async def test_to_the_other_queue(darkq: Darkq, client: Client) -> None:
    await client.enqueue_many(Job.create(f"{n}", priority="bulk") for n in range(3))
    (told,) = (await call(darkq, "queues", "move", "bulk", "--to", "interactive", "--json")).objects
    assert told["moved"] == 3
    assert (await client.queue("interactive").status()).waiting == 3


async def test_what_cannot_be_is_said(darkq: Darkq, client: Client, other_server: Server) -> None:
    for options in ([], ["--to", "bulk", "--back"]):
        assert (await call(darkq, "queues", "move", "bulk", *options)).code == 2
    refused = await call(darkq, "queues", "move", "bulk", "--to-url", other_server.url)
    assert refused.code == 1
    assert "pause and close it first" in refused.err
    back = await call(darkq, "queues", "move", "bulk", "--back", "--json")
    assert back.objects == [{"given_back": 0}]
