"""Purging, under a worker that goes on claiming, and with readers that wait."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Job, JobCancelled, JobNotFound, Purged, Settings
from darkq.event import Cancelled, Cursor
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.sync import Client as SyncClient
from support.by_hand import Hand, snapshot
from support.waiting import wait_until


async def last(tallies: AsyncGenerator[Purged, None]) -> Purged:
    async with aclosing(tallies) as pages:
        return [Purged(), *[tally async for tally in pages]][-1]


def bulk(prompt: str = "x", **wishes: Any) -> Job:
    return Job.create(prompt, priority="bulk", **wishes)


async def test_what_waits_is_cancelled_and_everybody_hears_of_it(
    client: Client, redis: Redis
) -> None:
    hand = Hand(redis)
    await client.enqueue_job(bulk("runs"))
    (claim,) = await hand.claim()
    jobs = await client.enqueue_many(bulk() for _ in range(230))
    other = await client.enqueue("of the other queue")
    reader = asyncio.create_task(anext(_ends(client, jobs[7].id)))
    await wait_until("the reader", lambda: redis.pubsub_channels("darkq:live:*"))
    before = await snapshot(redis)
    dry = await last(client.queue("bulk").purge(dry_run=True))
    assert await snapshot(redis) == before
    tally = await last(client.queue("bulk").purge())
    assert tally == dry == Purged(looked_at=231, purged=230, left=1)
    assert isinstance(await reader, Cancelled)
    with pytest.raises(JobCancelled):
        await jobs[-1].result(timeout_s=1)
    assert (await other.status()).state == "queued"
    assert (await client.job(claim.keys.public_id).status()).state == "running"
    assert await hand.leases.renew([claim]) == ([], []), "it was asked to stop"


async def _ends(client: Client, job_id: str) -> AsyncGenerator[object, None]:
    async for event in client.job(job_id).events():
        if isinstance(event, Cancelled):
            yield event


async def test_lines_of_a_batch_end_as_cancelled(client: Client) -> None:
    async with client.batch() as batch:
        for n in range(3):
            await batch.add(bulk(f"{n}"))
        assert (await last(client.queue("bulk").purge())).purged == 3
        page = await anext(batch.collected())
    assert [end.outcome for end in page] == ["cancelled"] * 3


async def test_under_a_worker_every_job_ends_once_one_way_or_the_other(
    client: Client,
    served: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    start_worker(served(worker_poll_s=0.05))
    jobs = await client.enqueue_many(bulk() for _ in range(300))
    tally = await last(client.queue("bulk").purge())
    outcomes = []
    for job in jobs:
        try:
            outcomes.append(bool((await job.result(timeout_s=20)).text))
        except JobCancelled:
            outcomes.append(False)
    assert outcomes.count(False) == tally.purged
    assert len(outcomes) == 300


async def test_failed_jobs_are_forgotten_prompt_and_all(client: Client, redis: Redis) -> None:
    hand = Hand(redis)
    for _ in range(3):
        await hand.fail(await hand.take(), Cursor(1, 0))
    done = await hand.take()
    await hand.complete(done, "text", Cursor(1, 0))
    assert (await last(client.purge.failed(dry_run=True))).purged == 3
    assert await last(client.purge.failed()) == Purged(looked_at=3, purged=3)
    assert [job async for job in client.failed()] == []
    assert not await redis.keys("darkq:failed:*")
    assert (await client.job(done.keys.public_id).result()).text == "text"


async def test_results_go_by_their_age(client: Client, redis: Redis) -> None:
    """What `Hand` ends has ended in 1970; a cancelled job ends now."""
    hand = Hand(redis)
    old, failed = await hand.take(), await hand.take()
    await hand.complete(old, "text", Cursor(1, 0))
    await hand.fail(failed, Cursor(1, 0))
    fresh = await client.enqueue("x")
    await fresh.cancel()
    waiting = await client.enqueue("x")
    tally = await last(client.purge.results(older_than_s=3600))
    assert tally == Purged(looked_at=3, purged=1)
    with pytest.raises(JobNotFound):
        await client.job(old.keys.public_id).status()
    assert (await fresh.status()).state == "cancelled"
    assert (await client.job(failed.keys.public_id).status()).state == "failed"
    assert (await last(client.purge.results(older_than_s=0))).purged == 1
    assert (await waiting.status()).state == "queued"


async def test_of_a_tenant_nothing_is_left_but_what_runs(client: Client, redis: Redis) -> None:
    hand = Hand(redis)
    runs = await client.enqueue("runs", tenant="alice")
    (claim,) = await hand.claim()
    mine = await client.enqueue_many(bulk(f"{n}", tenant="alice") for n in range(3))
    other = await client.enqueue("x", tenant="bob")
    tally = await last(client.purge.tenant("alice"))
    assert (tally.purged, tally.left) == (3 + 3, 1), "cancelled, then forgotten"
    assert [job.job_id for job in await client.jobs(tenant="alice")] == [runs.id]
    await hand.fail(claim, Cursor(1, 0))
    await redis.delete(claim.keys.result)  # of no tenant: played by hand
    assert (await last(client.purge.tenant("alice"))).left == 0
    assert not await redis.exists(PartitionKeys(0).tenant_jobs("alice"))
    for job in mine:
        with pytest.raises(JobNotFound):
            await job.status()
    assert (await other.status()).state == "queued"


async def test_what_cannot_be_read_is_left(client: Client, redis: Redis) -> None:
    job = await client.enqueue_job(bulk())
    await redis.set(JobKeys.parse(job.id).job, "no record", ex=60)
    assert await last(client.queue("bulk").purge()) == Purged(looked_at=1, left=1)


def test_the_same_without_await(settings: Settings, redis: Redis) -> None:
    with SyncClient(settings=settings) as client:
        client.enqueue_many(bulk() for _ in range(3))
        here, there = client.queue("bulk"), client.queue("interactive")
        assert [tally.moved for tally in here.move_to(there)] == [3]
        assert [tally.purged for tally in there.purge()] == [3]
