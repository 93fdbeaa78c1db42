"""Waiting for a job's result; and what readers see of a Redis that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq import (
    Client,
    JobCancelled,
    JobFailed,
    JobHandle,
    JobNotFound,
    RedisUnavailable,
    ResultTimeout,
    Settings,
)
from darkq.event import Cursor
from darkq.redis.pool import pool
from support.by_hand import Hand, chunk, heard
from support.servers import Server, binaries, running
from support.waiting import wait_until

from .scenes import Listener, fail, next_attempt, write, written


class TestResult:
    async def test_of_a_finished_job(self, hand: Hand, client: Client) -> None:
        claim = await written(hand, "a")
        await hand.complete(claim, "a", Cursor(1, 2))
        result = await client.job(claim.keys.public_id).result()
        assert (result.text, result.job_id) == ("a", claim.keys.public_id)

    async def test_is_waited_for_over_attempts(self, hand: Hand, client: Client) -> None:
        claim = await written(hand, "old")
        waiting = asyncio.create_task(client.job(claim.keys.public_id).result())
        again = await next_attempt(hand, claim, 2)
        await write(hand, again, "new")
        await hand.complete(again, "new", Cursor(2, 2))
        assert (await waiting).text == "new"

    @pytest.mark.parametrize("early", [False, True])
    async def test_of_a_failed_job(self, hand: Hand, client: Client, early: bool) -> None:
        claim = await written(hand, "a")
        job = client.job(claim.keys.public_id)
        waiting = asyncio.create_task(job.result()) if early else None
        await asyncio.sleep(0)
        await fail(hand, claim, 2)
        with pytest.raises(JobFailed, match="rejected: no"):
            await (waiting or job.result())

    async def test_of_a_cancelled_job(self, client: Client) -> None:
        job = await client.enqueue("hi")
        waiting = asyncio.create_task(job.result())
        await asyncio.sleep(0)
        assert (await job.cancel()).state == "cancelled"
        with pytest.raises(JobCancelled):
            await waiting

    @pytest.mark.parametrize("timeout_s", [0, 0.05])
    async def test_the_wait_ends_and_the_job_goes_on(
        self, client: Client, timeout_s: float
    ) -> None:
        job = await client.enqueue("hi")
        with pytest.raises(ResultTimeout) as caught:
            await job.result(timeout_s)
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.job_id, caught.value.timeout_s) == (job.id, timeout_s)
        assert (await job.status()).state == "queued"

    async def test_anothers_timeout_is_not_ours(self, client: Client) -> None:
        job = await client.enqueue("hi")
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await job.result(timeout_s=30)
        assert not isinstance(caught.value, ResultTimeout)

    async def test_of_an_unknown_job(self, client: Client) -> None:
        with pytest.raises(JobNotFound):
            await client.job(f"0-{'0' * 32}").result(5)

    async def test_is_gone_while_its_log_is_left(
        self, hand: Hand, redis: Redis, client: Client
    ) -> None:
        """A Redis short of memory may drop one and keep the other. Red when `_wait` just looks
        again: it would ask Redis in a loop, for ever.
        """
        claim = await written(hand, "a")
        await hand.complete(claim, "a", Cursor(1, 2))
        await redis.delete(claim.keys.result)
        with pytest.raises(JobNotFound):
            await client.job(claim.keys.public_id).result(5)

    async def test_is_there_while_its_log_is_gone(
        self, hand: Hand, redis: Redis, client: Client
    ) -> None:
        """The log goes while somebody waits. Red when `result` lets `CursorGone` out."""
        claim = await written(hand, "a")
        waiting = asyncio.create_task(client.job(claim.keys.public_id).result(5))
        await wait_until("it to listen", lambda: heard(redis, claim.keys.live))
        await redis.delete(claim.keys.events)
        await hand.complete(claim, "a", Cursor(1, 3))
        await redis.client_kill_filter(_type="pubsub")
        assert (await waiting).text == "a"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    with running(binaries()["valkey"], "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


class TestRedisGoesAway:
    async def test_readers_end_with_the_same_text(self, server: Server) -> None:
        settings = Settings.model_validate({"redis_url": server.url})
        async with Client(settings=settings) as client:
            hand = Hand(Redis.from_pool(pool(settings)))
            job = await client.enqueue("hi")
            claim = await hand.claim_one()
            await write(hand, claim, "one ", "two ")
            listeners = [Listener(job.text()) for _ in range(3)]
            waiting = asyncio.create_task(job.result())
            await wait_until("the text", lambda: all(r.text == "one two " for r in listeners))
            server.kill()
            late = Listener(job.text())
            await asyncio.sleep(0)
            server.start()
            await hand.append(claim, chunk(1, 3, "three"))
            await hand.complete(claim, "one two three", Cursor(1, 4))
            for listener in (*listeners, late):
                await asyncio.wait_for(listener.task, 10)
                assert listener.text == "one two three"
            assert (await asyncio.wait_for(waiting, 10)).text == "one two three"
            await hand.redis.aclose()

    async def test_nobody_waits_for_ever_for_a_redis_that_is_not_there(
        self, tmp_path: Path
    ) -> None:
        url = f"unix://{tmp_path}/nobody"
        settings = Settings.model_validate({"redis_url": url, "redis_patience_s": 0.1})
        async with Client(settings=settings) as client:
            job: JobHandle = client.job(f"0-{'0' * 32}")
            for call in (
                anext(job.events()), anext(job.text()), anext(job.text("1-1")), job.result(),
                job.status(), job.cancel(), client.enqueue("hi"), client.enqueue_many(["hi"]),
            ):  # fmt: skip
                with pytest.raises(RedisUnavailable, match="DARKQ_REDIS_URL"):
                    await call
