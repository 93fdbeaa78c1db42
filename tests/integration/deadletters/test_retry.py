"""Failed jobs through the client: looked at, and run again by a real worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import CannotRetry, Client, FailedJob, JobFailed, JobNotFound, Settings
from darkq import sync as blocking
from darkq.errors import AttemptSuperseded
from darkq.event import Completed, Cursor, Failed, Queued, Started
from darkq.jobs import failed as failures
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.by_hand import Hand, gone
from support.waiting import wait_until

Serve = Callable[..., Awaitable[LocalDarkAI]]
MakeSettings = Callable[..., Settings]


@pytest.fixture
async def serve(
    start_darkai: Serve, start_worker: Callable[[Settings], Any], make_settings: MakeSettings
) -> Serve:
    async def start(*plan: Fault | None, **changes: Any) -> LocalDarkAI:
        darkai = await start_darkai(*plan)
        start_worker(make_settings(darkai_url=darkai.url, retry_base_s=0.01, **changes))
        return darkai

    return start


async def failed_jobs(client: Client, limit: int | None = None) -> list[FailedJob]:
    async with aclosing(client.failed(limit)) as jobs:
        return [job async for job in jobs]


async def test_a_failed_job_is_listed_and_run_again(serve: Serve, client: Client) -> None:
    await serve(Fault.parse("truncate=2"))
    job = await client.enqueue("once more", model="gpt-4o", tries=1, metadata={"user": "7"})
    with pytest.raises(JobFailed):
        await job.result(timeout_s=10)
    (found,) = await failed_jobs(client)
    assert (found.job_id, found.code, found.kept) == (job.id, "truncated", True)
    assert (found.attempt, found.model, found.upstream) == (1, "gpt-4o", "darkai")
    assert found.metadata == {"user": "7"}
    assert 0 < found.queued_ms <= found.failed_ms
    assert "once more" not in repr(found)
    before = [event async for event in job.events()]
    assert isinstance(before[-1], Failed)

    status = await job.retry()
    assert status.state in ("queued", "running", "completed")
    result = await job.result(timeout_s=10)
    assert (result.attempt, result.metadata) == (3, {"user": "7"})
    assert await failed_jobs(client) == []
    after = [event async for event in job.events(after=before[-1].id)]
    assert [type(event) for event in after[:2]] == [Queued, Started]
    assert isinstance(after[-1], Completed)
    assert "".join([piece async for piece in job.text()]) == result.text


async def test_text_of_the_two_lives_is_not_joined(serve: Serve, client: Client) -> None:
    await serve(Fault.parse("truncate=2"))
    job = await client.enqueue("once more", tries=1)
    with pytest.raises(JobFailed):
        async for _ in job.text():
            pass
    await job.retry()
    result = await job.result(timeout_s=10)
    with pytest.raises(AttemptSuperseded) as caught:
        async for _ in job.text(after="1-1"):
            pass
    text = "".join([piece async for piece in job.text(after=caught.value.cursor)])
    assert text == result.text


async def test_tries_begin_anew(serve: Serve, client: Client) -> None:
    darkai = await serve(*[Fault.parse("error=1")] * 4)
    job = await client.enqueue("stubborn", tries=2)
    for seen in (2, 4):
        with pytest.raises(JobFailed):
            await job.result(timeout_s=10)
        assert darkai.requests_seen == seen
        await job.retry()
    assert (await job.result(timeout_s=10)).text


async def test_a_failure_is_kept_for_its_own_time(
    serve: Serve, client: Client, redis: Redis
) -> None:
    """And the prompt for not a moment longer."""
    await serve(failed_ttl_s=40, result_ttl_s=20)
    job = await client.enqueue("the prompt", model="gpt-9")
    with pytest.raises(JobFailed):
        await job.result(timeout_s=10)
    keys = JobKeys.parse(job.id)
    for name in (keys.failed, keys.result, keys.events, PartitionKeys(0).failed):
        assert 30_000 < await redis.pttl(name) <= 40_000, name
    assert b"the prompt" in await redis.get(keys.failed)
    others = [name for name in await redis.keys() if name != keys.failed.encode()]
    assert not [name for name in others if b"the prompt" in (await redis.dump(name) or b"")]
    await redis.pexpire(keys.failed, 1)
    await wait_until("the prompt to expire", lambda: gone(redis, keys.failed))
    assert [job.kept for job in await failed_jobs(client)] == [False]
    with pytest.raises(CannotRetry, match="prompt is no longer kept"):
        await job.retry()


async def test_what_has_not_failed_is_left_alone(serve: Serve, client: Client) -> None:
    await serve()
    job = await client.enqueue("fine")
    await job.result(timeout_s=10)
    with pytest.raises(CannotRetry, match="it is completed") as caught:
        await job.retry()
    assert caught.value.job_id == job.id
    with pytest.raises(JobNotFound):
        await client.job("0-" + "0" * 32).retry()


async def test_whoever_waits_for_the_result_may_see_the_second_life(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end was taken back between `failed` and the look at the result. Red with
    `raise JobNotFound` in `JobHandle._wait`.
    """
    hand = Hand(redis)
    keys = await hand.enqueue()
    job = client.job(keys.public_id)
    claim = await hand.claim_one()
    stored, looks = type(job)._read_stored, 0

    async def retried_in_between(self: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            await job.retry()
        answer = await stored(self)
        if looks == 1:
            await hand.fail(claim, Cursor(1, 0))
        elif looks == 2:
            await hand.complete(await hand.claim_one(), "at last", Cursor(3, 0))
        return answer

    monkeypatch.setattr(type(job), "_read_stored", retried_in_between)
    assert (await job.result(timeout_s=10)).text == "at last"


class TestListing:
    async def many(self, redis: Redis, count: int) -> list[str]:
        """Failed jobs, the latest first."""
        hand = Hand(redis)
        ids = []
        for _ in range(count):
            claim = await hand.take()
            await hand.fail(claim, Cursor(1, 0))
            ids.append(claim.keys.public_id)
        return ids[::-1]

    @pytest.mark.parametrize("limit", [None, 1, 3, 4, 7, 100])
    async def test_the_latest_first_page_by_page(
        self, client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch, limit: int | None
    ) -> None:
        monkeypatch.setattr(failures, "PAGE_JOBS", 3)
        ids = await self.many(redis, 10)
        assert [job.job_id for job in await failed_jobs(client, limit)] == ids[:limit]

    async def test_two_of_the_same_moment_at_a_seam_of_pages(
        self, client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Red when a page begins below the last score of the one before."""
        monkeypatch.setattr(failures, "PAGE_JOBS", 3)
        ids = await self.many(redis, 5)
        at = {JobKeys.parse(name).arq_id: (n + 1) // 2 for n, name in enumerate(ids)}
        await redis.zadd(PartitionKeys(0).failed, at)
        assert sorted(job.job_id for job in await failed_jobs(client)) == sorted(ids)

    async def test_while_they_are_run_again(
        self, client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Red when pages are counted by place: every second page would be passed over."""
        monkeypatch.setattr(failures, "PAGE_JOBS", 3)
        ids = await self.many(redis, 10)
        seen = []
        async with aclosing(client.failed()) as jobs:
            async for job in jobs:
                seen.append(job.job_id)
                await client.job(job.job_id).retry()
        assert seen == ids
        assert await failed_jobs(client) == []

    async def test_every_partition_is_looked_at(self, make_settings: MakeSettings) -> None:
        async with Client(settings=make_settings(partitions=4)) as client:
            assert await failed_jobs(client) == []

    async def test_what_has_expired_in_between_is_left_out(
        self, client: Client, redis: Redis
    ) -> None:
        first, second = await self.many(redis, 2)
        await redis.delete(JobKeys.parse(first).result)
        assert [job.job_id for job in await failed_jobs(client)] == [second]


async def test_without_await(settings: Settings, redis: Redis) -> None:
    hand = Hand(redis)
    claim = await hand.take()
    await hand.fail(claim, Cursor(1, 0))

    def look_and_retry() -> tuple[list[str], str]:
        with blocking.Client(settings=settings) as client:
            ids = [job.job_id for job in client.failed(limit=5)]
            return ids, client.job(ids[0]).retry().state

    assert await asyncio.to_thread(look_and_retry) == ([claim.keys.public_id], "queued")
