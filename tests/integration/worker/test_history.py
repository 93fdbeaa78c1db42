"""What a worker leaves of a job's event log when the job ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from darkq import Client, Job, JobFailed, Settings
from darkq import event as ev
from darkq.event import AnyEvent, Cancelled, Chunk, Failed
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import Arguments, JobRecord, encode
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.writing import attempt_log
from support.by_hand import put
from support.waiting import wait_until

Work = Callable[..., Awaitable[None]]


@pytest.fixture
def work(
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    make_settings: Callable[..., Settings],
) -> Work:
    async def start(**options: float) -> None:
        darkai = await start_darkai(**options)
        start_worker(make_settings(darkai_url=darkai.url))

    return start


async def read_log(redis: Redis, keys: JobKeys) -> list[AnyEvent]:
    return [ev.decode(fields[b"e"]) for _, fields in await redis.xrange(keys.events)]


async def test_an_answer_of_400_chunks_takes_little_more_than_its_text(
    client: Client, redis: Redis, work: Work
) -> None:
    """Red when the log stays, or a boundary takes more than a byte or two."""
    await work(chunks=400, chunks_per_s=2000)
    job = await client.enqueue("hello")
    seen = [event async for event in job.events()]
    text = (await job.result()).text
    keys = JobKeys.parse(job.id)
    assert not await redis.exists(keys.events)
    used = await redis.memory_usage(keys.result, samples=0)
    assert used is not None
    assert used <= len(text.encode()) + 2 * 400 + 800
    assert [event async for event in job.events()] == seen
    assert sum(event.merged for event in seen if isinstance(event, Chunk)) == 400


async def test_the_log_of_a_very_long_answer_stays(
    client: Client, redis: Redis, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red without the limit: each slow reader would hold the whole answer."""
    monkeypatch.setattr(attempt_log, "MAX_HISTORY_CHARS", 100)
    await work(chunks=40)
    job = await client.enqueue("hello")
    assert len((await job.result()).text) > 100
    seen = [event async for event in job.events()]
    assert await read_log(redis, JobKeys.parse(job.id)) == seen


async def test_the_log_of_an_older_producer_stays(client: Client, redis: Redis, work: Work) -> None:
    """It may read the log, too, and knows no histories."""
    await work(chunks=3)
    keys = JobKeys.new(0)
    record = JobRecord(k=Arguments(Job.create("hello")), et=int(time.time() * 1000))
    await put(redis, keys, record=encode(record))
    seen = [event async for event in client.job(keys.public_id).events()]
    assert await read_log(redis, keys) == seen


async def test_the_log_of_a_failed_job_stays_for_another_try(
    client: Client, redis: Redis, work: Work
) -> None:
    await work()
    job = await client.enqueue("[fault: status=400] hello", tries=1)
    with pytest.raises(JobFailed):
        await job.result()
    log = await read_log(redis, JobKeys.parse(job.id))
    assert isinstance(log[-1], Failed)


async def test_the_log_of_a_cancelled_job_keeps_its_text(
    client: Client, redis: Redis, work: Work
) -> None:
    """The result of a cancelled job has no text."""
    await work(chunks=400, chunks_per_s=20)
    job = await client.enqueue("hello")
    keys = JobKeys.parse(job.id)

    async def has_text() -> bool:
        return any(isinstance(event, Chunk) for event in await read_log(redis, keys))

    await wait_until("some text", has_text)
    await job.cancel()
    seen = [event async for event in job.events()]
    assert isinstance(seen[-1], Cancelled)
    assert await read_log(redis, keys) == seen
