"""A queue has a bound, and who finds it full is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from darkq import Client, DarkqError, Job, QueueFull, Settings
from darkq.protocol.keys import PartitionKeys
from support.by_hand import Hand, snapshot

INTERACTIVE = PartitionKeys(0).queue("interactive")


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(queue_max_jobs=3)


async def test_one_too_many_is_refused_by_name(client: Client, redis: Redis) -> None:
    await client.enqueue_many(["a", "b", "c"])
    before = await snapshot(redis)
    with pytest.raises(QueueFull, match=r"has 3 jobs.*DARKQ_QUEUE_MAX_JOBS.*nothing") as caught:
        await client.enqueue("the prompt")
    assert isinstance(caught.value, DarkqError)
    assert (caught.value.queue, caught.value.limit) == (INTERACTIVE, 3)
    assert caught.value.stored_ids == ()
    assert "the prompt" not in str(caught.value)
    assert await snapshot(redis) == before


async def test_there_is_room_again_once_a_job_has_ended(client: Client, redis: Redis) -> None:
    jobs = await client.enqueue_many(["a", "b", "c"])
    await jobs[0].cancel()
    await client.enqueue("d")
    with pytest.raises(QueueFull):
        await client.enqueue("e")


async def test_the_other_priority_has_room_of_its_own(client: Client) -> None:
    await client.enqueue_many(["a", "b", "c"])
    assert (await client.enqueue("bulk", priority="bulk")).id


async def test_many_tells_which_were_stored(client: Client, redis: Redis) -> None:
    await client.enqueue("a")
    with pytest.raises(QueueFull, match="2 jobs were stored") as caught:
        await client.enqueue_many(["b", "c", "d", "e"])
    claimed = [claim.keys.public_id for claim in await Hand(redis).claim()]
    assert list(caught.value.stored_ids) == claimed[1:]
    assert len(claimed) == 3


async def test_many_stops_at_the_first_call_that_was_refused(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    async with Client(settings=make_settings(queue_max_jobs=600)) as client:
        with pytest.raises(QueueFull) as caught:
            await client.enqueue_many([f"{n}" for n in range(2000)])
    assert len(caught.value.stored_ids) == await redis.zcard(INTERACTIVE) == 600


async def test_of_many_each_priority_goes_as_far_as_it_can(client: Client, redis: Redis) -> None:
    jobs = [Job.create(f"{n}", priority="bulk" if n % 2 else "interactive") for n in range(7)]
    with pytest.raises(QueueFull) as caught:
        await client.enqueue_many(jobs)
    assert caught.value.queue == INTERACTIVE
    assert str(caught.value).startswith("the interactive queue is full: ")
    assert len(caught.value.stored_ids) == 6
    assert await redis.zcard(INTERACTIVE) == await redis.zcard(PartitionKeys(0).queue("bulk")) == 3


async def test_an_idempotent_caller_gets_its_job_from_a_full_queue(client: Client) -> None:
    job = await client.enqueue("a", idempotency_key="k")
    await client.enqueue_many(["b", "c"])
    again = await client.enqueue("a", idempotency_key="k")
    assert (again.id, again.duplicate) == (job.id, True)


async def test_a_refused_key_is_free(client: Client, redis: Redis) -> None:
    jobs = await client.enqueue_many(["a", "b", "c"])
    with pytest.raises(QueueFull):
        await client.enqueue("d", idempotency_key="k")
    await jobs[0].cancel()
    job = await client.enqueue("other content", idempotency_key="k")
    assert not job.duplicate


async def test_producers_in_a_race_never_pass_it(settings: Settings, redis: Redis) -> None:
    """Red when the producer asks for the length before it stores."""
    clients = [Client(settings=settings) for _ in range(8)]
    calls = [client.enqueue(f"{n}") for n in range(10) for client in clients]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for client in clients:
        await client.aclose()
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 77
    assert await redis.zcard(INTERACTIVE) == 3
