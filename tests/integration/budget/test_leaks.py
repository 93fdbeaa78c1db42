"""Nothing is kept of a job that is over: no object, no socket, no task, no key of Redis.

Counted, not timed: the same work is done twice, and what has grown by as much as one for two jobs
the second time would grow for ever.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from darkq import Chunk, Client, Settings
from darkq_local.local_darkai import LocalDarkAI
from support.waiting import wait_until

JOBS = 300
AT_ONCE = 30


async def one_job(client: Client, number: int) -> None:
    """One job in one of the ways that jobs go, its reader with it."""
    job = await client.enqueue(f"job {number}", metadata={"n": str(number)})
    match number % 4:
        case 0:
            await job.result()
        case 1:
            assert "".join([piece async for piece in job.text()])
        case 2:  # leave in the middle, and come back
            cursor = None
            async with aclosing(job.events()) as events:
                async for event in events:
                    cursor = event.id
                    if isinstance(event, Chunk):
                        break
            assert [event async for event in job.events(after=cursor)]
        case 3:
            await job.cancel()
            _ = [event async for event in job.events()]


async def many_jobs(client: Client) -> None:
    for start in range(0, JOBS, AT_ONCE):
        await asyncio.gather(*(one_job(client, n) for n in range(start, start + AT_ONCE)))


def objects() -> Counter[str]:
    gc.collect()
    found = Counter(
        f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects()
    )
    # The upstream of the test keeps notes of what it was asked.
    return Counter({name: n for name, n in found.items() if not name.startswith("darkq_local.")})


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
async def test_ended_jobs_leave_nothing_in_the_memory_of_a_worker(
    make_settings: Callable[..., Settings],
    redis: Redis,
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when `Writer.abandon` leaves the log in `_open`."""
    caplog.set_level("CRITICAL", "aiohttp.server")  # pytest keeps what the upstream's server logs
    settings = make_settings(darkai_url=(await start_darkai(chunks=6)).url, result_ttl_s=10)
    start_worker(settings)
    async with Client(settings=settings) as client:
        await many_jobs(client)
        before, files, tasks = objects(), open_files(), len(asyncio.all_tasks())
        await many_jobs(client)
        await wait_until("no job is left", lambda: all_gone(redis), timeout_s=10)
        grown = objects() - before
        kept = {name: n for name, n in grown.items() if n >= JOBS / 2}
        assert not kept, f"kept of {JOBS} jobs: {kept}"
        assert open_files() - files < AT_ONCE / 2
        assert len(asyncio.all_tasks()) - tasks < AT_ONCE / 2


async def all_gone(redis: Redis) -> bool:
    """Tell whether the results of all jobs have expired, and nothing else is left of them."""
    return not [key async for key in redis.scan_iter("arq:*")]
