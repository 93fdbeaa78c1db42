"""`darkq workers`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from darkq import Client, Settings
from darkq_local.local_darkai import LocalDarkAI
from support.command import Darkq, Done
from support.processes import WorkerProcess
from support.waiting import wait_until


async def call(darkq: Darkq, *arguments: str, **options: Any) -> Done:
    return await asyncio.to_thread(darkq, *arguments, **options)


async def test_workers_are_listed_stay_idle_and_go(
    darkq: Darkq,
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_process: Callable[[Settings], WorkerProcess],
) -> None:
    darkai = await start_darkai(chunks=3)
    processes = [start_process(make_settings(darkai_url=darkai.url)) for _ in range(2)]

    async def alive() -> bool:
        return len(await client.workers()) == 2

    await wait_until("the workers", alive)
    ids = await client.workers()
    table = await call(darkq, "workers")
    assert (table.code, table.out.decode().count(" active")) == (0, 2)
    stays = await call(darkq, "workers", "drain", ids[0], "--stay", "--by", "ann", "--wait")
    assert (stays.code, stays.line) == (0, ids[0])
    told = (await call(darkq, "workers", "--json")).objects
    assert [worker["drained"] and worker["drained"]["by"] for worker in told] == ["ann", None]
    again = await call(darkq, "workers", "undrain", ids[0])
    assert (again.code, again.line) == (0, ids[0])
    done = await call(darkq, "workers", "drain", "--all", "--wait", "--json")
    assert (done.code, [told["worker"] for told in done.objects]) == (0, ids)
    assert [await process.wait() for process in processes] == [0, 0]
    none = await call(darkq, "workers")
    assert (none.code, none.out) == (0, b"")


async def test_which_ones_must_be_said(darkq: Darkq, redis: object) -> None:
    for arguments in ([], ["x", "--all"]):
        done = await call(darkq, "workers", "drain", *arguments)
        assert (done.code, done.out) == (2, b"")
    unknown = await call(darkq, "workers", "drain", "nobody")
    assert (unknown.code, "no worker nobody is alive" in unknown.err) == (1, True)
