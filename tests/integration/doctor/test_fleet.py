"""Partitions, workers, queues, failures and breakers: red and green on a real Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.event import Cursor
from darkq.operate.upstreams import Served, announcement
from darkq.operate.workers import sign_in
from darkq.protocol.keys import LimitKeys, PartitionKeys, WorkerKeys
from darkq_local.local_darkai import LocalDarkAI
from support.by_hand import Hand, started

from .conftest import Results, examine_all

WORKER = "host:1:hand"


@pytest.fixture
def look(make_settings: Callable[..., Settings]) -> Callable[..., Awaitable[Results]]:
    async def look(**changes: Any) -> Results:
        return await examine_all(make_settings(**changes))

    return look


@pytest.fixture
async def alive(redis: Redis) -> None:
    """A worker that is alive."""
    serves = Served(name="x", kind="openai", default_model="m", models=("m",))
    await sign_in(redis, WORKER, announcement([serves]))
    await redis.set(WorkerKeys(WORKER).health, "well", ex=60)


async def test_jobs_in_partitions_where_nobody_looks(
    redis: Redis, make_settings: Callable[..., Settings], look: Any
) -> None:
    async with Client(settings=make_settings(partitions=4)) as client:
        for number in range(60):
            await client.enqueue(f"prompt {number}")
    elsewhere = sum([await redis.zcard(PartitionKeys(p).queue("interactive")) for p in (1, 2, 3)])
    found = (await look(partitions=1))["partitions"]
    assert found.verdict == "problem"
    assert found.found.startswith(f"{elsewhere} jobs are in partitions 1-3, and with DARKQ_PART")
    assert found.do.startswith("Set DARKQ_PARTITIONS=4 ")
    assert (await look(partitions=4))["partitions"].verdict == "ok"


async def test_a_partition_far_off(redis: Redis, look: Any) -> None:
    await redis.zadd(PartitionKeys(4095).queue("bulk"), {"{4095}" + "0" * 32: 1})
    found = (await look(partitions=4))["partitions"]
    assert "1 jobs are in partitions 4095" in found.found
    await redis.delete(PartitionKeys(4095).queue("bulk"))


async def test_nobody_works(client: Client, redis: Redis, look: Any) -> None:
    assert (await look())["workers"].verdict == "warning"
    await client.enqueue("a")
    found = (await look())["workers"]
    assert (found.verdict, found.found) == ("problem", "1 jobs wait, and no worker is alive")
    assert found.do.endswith(" worker")


@pytest.mark.usefixtures("alive")
async def test_somebody_works(redis: Redis, look: Any) -> None:
    await Hand(redis, WORKER).take()
    found = (await look())["workers"]
    assert (found.verdict, found.found) == ("ok", "1 alive, running 1 jobs")


@pytest.mark.usefixtures("alive")
async def test_queues_that_fill_and_wait(client: Client, redis: Redis, look: Any) -> None:
    assert (await look())["queues"].verdict == "ok"
    await client.enqueue_many(["a", "b", "c", "d", "e", "f", "g", "h", "i"])
    assert (await look(queue_max_jobs=9))["queues"].verdict == "problem"
    assert (await look(queue_max_jobs=10))["queues"].verdict == "warning"
    assert (await look(queue_max_jobs=20))["queues"].verdict == "ok"
    (job, *_) = await redis.zrange(PartitionKeys(0).queue("interactive"), 0, 0)
    await redis.zadd(PartitionKeys(0).queue("interactive"), {job: 1})
    found = (await look())["queues"]
    assert found.verdict == "warning"
    assert "an interactive job has waited for" in found.found


async def test_a_paused_or_closed_queue_is_a_warning_with_its_author(
    client: Client, look: Any
) -> None:
    """Red when the queues are fine while no job can run."""
    queue = client.queue("bulk")
    await queue.pause(by="alice@host", why="a move")
    await queue.close()
    found = (await look())["queues"]
    await queue.resume()
    await queue.open()
    assert found.verdict == "warning"
    assert "the bulk queue is paused by alice@host since " in found.found
    assert "the bulk queue is closed: new jobs are refused" in found.found
    assert " queues resume bulk; To open it: " in found.do


async def test_jobs_that_fail(redis: Redis, look: Any) -> None:
    assert (await look())["failed jobs"].found == "none"
    hand = Hand(redis)
    claim = await hand.take()
    await hand.append(claim, started(1))
    await hand.fail(claim, Cursor(1, 1))
    found = (await look())["failed jobs"]
    assert (found.verdict, found.found) == ("warning", "1 are stored, 1 of them from the last hour")
    await redis.zadd(PartitionKeys(0).failed, {claim.keys.arq_id: 1})
    found = (await look())["failed jobs"]
    assert (found.verdict, found.found) == ("ok", "1 are stored, 0 of them from the last hour")


@pytest.mark.usefixtures("alive")
async def test_a_breaker_that_is_open(redis: Redis, look: Any) -> None:
    assert (await look())["breakers"].verdict == "ok"
    seconds, _ = await redis.time()
    breaker = LimitKeys.of_upstream("x").breaker
    scribe: Any = redis  # redis-py types it for both of its clients
    await scribe.hset(breaker, "open_until", (seconds + 60) * 1000)
    await redis.expire(breaker, 60)
    found = (await look())["breakers"]
    assert found.verdict == "warning"
    assert found.found.startswith("x is open for ")


async def test_without_a_worker_there_is_no_breaker(look: Any) -> None:
    assert (await look())["breakers"].verdict == "skipped"


StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]


async def test_an_upstream_that_answers(
    make_settings: Callable[..., Settings], start_darkai: StartDarkAI
) -> None:
    settings = make_settings(darkai_url=(await start_darkai()).url)
    found = (await examine_all(settings, call_upstreams=True))["upstream"]
    assert (found.of, found.verdict) == ("darkai", "ok")
    assert (await examine_all(settings))["upstream"].found == "--no-probe"


async def test_an_upstream_that_does_not(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(darkai_url="http://127.0.0.1:1/chat")
    found = (await examine_all(settings, call_upstreams=True))["upstream"]
    assert (found.of, found.verdict) == ("darkai", "problem")
    assert "DARKQ_DARKAI_URL" in found.do


async def test_an_upstream_whose_limits_leave_no_room(
    make_settings: Callable[..., Settings], start_darkai: StartDarkAI
) -> None:
    settings = make_settings(darkai_url=(await start_darkai()).url, darkai_limits="1/3600")
    assert (await examine_all(settings, call_upstreams=True))["upstream"].verdict == "ok"
    found = (await examine_all(settings, call_upstreams=True))["upstream"]
    assert (found.verdict, found.found) == ("skipped", "not called: its limits leave no room now")


async def test_no_upstream_is_asked_behind_the_back_of_redis(
    make_settings: Callable[..., Settings], start_darkai: StartDarkAI
) -> None:
    darkai = await start_darkai()
    settings = make_settings(darkai_url=darkai.url, redis_url="redis://127.0.0.1:1")
    assert (await examine_all(settings, call_upstreams=True))["upstream"].verdict == "skipped"
