"""What darkq does, over a cluster: the same as over one server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from darkq import Client, JobCancelled, JobFailed, Settings
from darkq.event import Completed
from darkq_local.faults import Fault, Refusal
from darkq_local.local_darkai import LocalDarkAI
from support.waiting import wait_until

from .conftest import PARTITIONS

pytestmark = pytest.mark.slow

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]


@pytest.fixture
async def working(
    settings: Settings, start_darkai: StartDarkAI, start_worker: StartWorker
) -> LocalDarkAI:
    """A worker of all partitions, and its upstream."""
    darkai = await start_darkai()
    start_worker(settings.model_copy(update={"darkai_url": darkai.url}))
    return darkai


async def test_jobs_of_all_partitions_reach_their_readers(
    working: LocalDarkAI, client: Client
) -> None:
    jobs = await client.enqueue_many(f"prompt {n}" for n in range(600))
    jobs += [await client.enqueue(f"prompt {n}") for n in range(60)]
    assert len({job.id.split("-")[0] for job in jobs}) >= PARTITIONS - 2
    for job in jobs[::10]:
        text = [piece async for piece in job.text()]
        assert (await job.result(timeout_s=30)).text == "".join(text)
    for job in jobs:
        await job.result(timeout_s=30)
    assert sum(queue.waiting + queue.running for queue in await client.queues()) == 0
    assert (await client.stats()).workers == 1


async def test_a_live_reader_gets_each_chunk_when_it_is_published(
    settings: Settings, client: Client, start_darkai: StartDarkAI, start_worker: StartWorker
) -> None:
    """By the shard's channel: the fallback would look at the log after half a minute."""
    darkai = await start_darkai(chunks=10, chunks_per_s=20)
    start_worker(settings.model_copy(update={"darkai_url": darkai.url}))
    jobs = [await client.enqueue("prompt") for _ in range(12)]

    async def read(number: int) -> int:
        batches = [batch async for batch in jobs[number].event_batches()]
        assert isinstance(batches[-1][-1], Completed)
        return sum(batch.came_s is not None for batch in batches)

    async with asyncio.timeout(20):
        live = await asyncio.gather(*map(read, range(12)))
    assert min(live) >= 5, live


async def test_idempotency_cancelling_and_failing(
    settings: Settings, client: Client, start_darkai: StartDarkAI, start_worker: StartWorker
) -> None:
    waiting = [await client.enqueue("prompt", idempotency_key=f"k{n}") for n in range(20)]
    again = [await client.enqueue("prompt", idempotency_key=f"k{n}") for n in range(20)]
    assert [job.id for job in again] == [job.id for job in waiting]
    for job in waiting:
        assert (await job.cancel()).state == "cancelled"
        with pytest.raises(JobCancelled):
            await job.result()
    darkai = await start_darkai(*[Fault(refusal=Refusal(kind="html", status=403))] * 8)
    start_worker(settings.model_copy(update={"darkai_url": darkai.url}))
    failing = [await client.enqueue("prompt", tries=1) for _ in range(8)]
    for job in failing:
        with pytest.raises(JobFailed):
            await job.result(timeout_s=20)
    assert {job.job_id async for job in client.failed()} == {job.id for job in failing}
    for job in failing:
        await job.retry()
        assert (await job.result(timeout_s=20)).text


async def test_a_running_job_is_cancelled(
    settings: Settings, client: Client, start_darkai: StartDarkAI, start_worker: StartWorker
) -> None:
    darkai = await start_darkai(chunks=1000, chunks_per_s=20)
    start_worker(settings.model_copy(update={"darkai_url": darkai.url}))
    jobs = [await client.enqueue("prompt") for _ in range(6)]
    for job in jobs:
        async for _ in job.text():
            break
        await job.cancel()
    for job in jobs:
        with pytest.raises(JobCancelled):
            await job.result(timeout_s=10)


async def test_batches(working: LocalDarkAI, client: Client) -> None:
    async with client.batch(name="b", window=20) as batch:
        lines = [line async for line in batch.run(f"prompt {n}" for n in range(120))]
    assert sorted(line.number for line in lines) == list(range(1, 121))
    assert {line.outcome for line in lines} == {"completed"}
    assert [found.batch_id async for found in client.batches()] == [batch.id]


async def test_limits_are_kept_by_all_workers_together(
    settings: Settings, client: Client, start_darkai: StartDarkAI, start_worker: StartWorker
) -> None:
    darkai = await start_darkai(chunks=20, chunks_per_s=40)
    changes = {"darkai_url": darkai.url, "darkai_concurrency": 2}
    for _ in range(2):
        start_worker(settings.model_copy(update=changes))
    jobs = [await client.enqueue("prompt") for _ in range(10)]
    most = 0

    async def all_over() -> bool:
        nonlocal most
        (status,) = await client.upstreams()
        most = max(most, status.in_progress)
        return sum(queue.running + queue.deferred for queue in await client.queues()) == 0

    await wait_until("some to run", client.upstreams)
    await wait_until("all to have run", all_over, timeout_s=30)
    for job in jobs:
        await job.result(timeout_s=30)
    assert most <= 2


async def test_workers_may_have_partitions_of_their_own(
    settings: Settings, client: Client, start_darkai: StartDarkAI, start_worker: StartWorker
) -> None:
    darkai = await start_darkai()
    half = {"darkai_url": darkai.url, "worker_partitions": "0-3"}
    start_worker(settings.model_copy(update=half))
    jobs = await client.enqueue_many(["prompt"] * 500)
    jobs += [await client.enqueue("prompt") for _ in range(40)]
    low = [job for job in jobs if int(job.id.split("-")[0]) < 4]
    high = [job for job in jobs if int(job.id.split("-")[0]) >= 4]
    assert high
    for job in low:
        await job.result(timeout_s=30)
    assert {(await job.status()).state for job in high[:20]} == {"queued"}
    start_worker(settings.model_copy(update={**half, "worker_partitions": "4-7"}))
    for job in high:
        await job.result(timeout_s=30)


async def test_api_keys_and_lists_are_found_whatever_their_slots(client: Client) -> None:
    for n in range(12):
        await client.api_keys.create(f"key {n}", tenant=f"t{n}")
    assert len(await client.api_keys.listed()) == 12
    jobs = [await client.enqueue("prompt", tenant="t") for _ in range(30)]
    found = await client.jobs(tenant="t", limit=100)
    assert {status.job_id for status in found} == {job.id for job in jobs}
    for job in jobs:
        await job.cancel()
        await job.delete()


async def test_who_only_reads_is_not_sent_from_one_to_another(
    working: LocalDarkAI, client: Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader's first question is a subscription. Red when it does not ask who has what before."""
    jobs = [await client.enqueue("prompt") for _ in range(8)]
    for job in jobs:
        async with Client(settings=settings) as reader:
            assert [piece async for piece in reader.job(job.id).text()]
    assert "no subscriber connection" not in caplog.text
