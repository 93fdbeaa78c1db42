"""Putting many jobs in: checked before the first is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, InvalidJob, Job, Message, RedisUnavailable, Settings
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.prompt import Prompt
from darkq.protocol.record import decode_job
from support.by_hand import Hand

PROMPTS = [f"prompt {n}" for n in range(1200)]


def one_by_one(items: list[Any]) -> Iterator[Any]:
    yield from items


async def one_by_one_async(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.mark.parametrize("source", [list, tuple, one_by_one, one_by_one_async])
async def test_from_any_iterable_in_order(
    client: Client, redis: Redis, source: Callable[[list[str]], Any]
) -> None:
    jobs = await client.enqueue_many(source(PROMPTS))
    assert len({job.id for job in jobs}) == 1200
    claims = await Hand(redis).claim(slots=2000)
    assert [claim.keys.public_id for claim in claims] == [job.id for job in jobs]
    assert [decode_job(claim.record).job.prompt for claim in claims] == PROMPTS


async def test_a_few_hundred_share_a_round_trip(client: Client, redis: Redis) -> None:
    await client.enqueue("so that the script is there")
    before = int((await redis.info("commandstats"))["cmdstat_evalsha"]["calls"])
    await client.enqueue_many(PROMPTS)
    assert int((await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]) - before == 3


async def test_nothing_at_all(client: Client, redis: Redis) -> None:
    assert await client.enqueue_many([]) == []
    assert await redis.dbsize() == 0


async def test_prompts_and_jobs_may_be_mixed(client: Client, redis: Redis) -> None:
    items: list[Prompt | Job] = [
        "plain",
        [Message("user", "a message")],
        [{"role": "user", "content": "a dictionary"}],
        Job.create("a job", model="m", priority="bulk", metadata={"a": "b"}),
    ]
    jobs = await client.enqueue_many(items)
    last = await redis.get(JobKeys.parse(jobs[3].id).job)
    assert decode_job(last).job == items[3]
    assert await redis.zcard(PartitionKeys(0).queue("bulk")) == 1
    assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 3


@pytest.mark.parametrize("source", [list, one_by_one, one_by_one_async])
@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ("", "prompt"),
        (None, "prompt"),
        ([Message("user", "x"), {"role": "user"}], "prompt[1]"),
        # Made without `create`, a job may hold anything; nobody would ever look into its queue.
        (Job(prompt="x", priority="urgent"), "priority"),  # type: ignore[arg-type]
        (Job(prompt=""), "prompt"),
        (Job(prompt="x", tries=0), "tries"),
    ],
    ids=["empty", "none", "message", "priority", "job", "tries"],
)
async def test_one_bad_item_and_nothing_is_stored(
    client: Client, redis: Redis, source: Callable[[list[Any]], Any], bad: Any, field: str
) -> None:
    with pytest.raises(InvalidJob) as caught:
        await client.enqueue_many(source([*PROMPTS[:700], bad, *PROMPTS[700:]]))
    assert caught.value.field == f"jobs[700].{field}"
    assert await redis.dbsize() == 0


@pytest.mark.parametrize(
    "jobs", ["one prompt", b"bytes", {"role": "user", "content": "x"}, 7, None]
)
async def test_what_is_not_many_is_refused(client: Client, redis: Redis, jobs: Any) -> None:
    with pytest.raises(InvalidJob) as caught:
        await client.enqueue_many(jobs)
    assert caught.value.field == "jobs"
    assert await redis.dbsize() == 0


async def test_what_the_source_raises_comes_out_and_nothing_is_stored(
    client: Client, redis: Redis
) -> None:
    def broken() -> Iterator[str]:
        yield "fine"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await client.enqueue_many(broken())
    assert await redis.dbsize() == 0


async def test_without_redis() -> None:
    url = "redis://127.0.0.1:1"
    settings = Settings.model_validate({"redis_url": url, "redis_patience_s": 0.05})
    async with Client(settings=settings) as client:
        with pytest.raises(RedisUnavailable):
            await client.enqueue_many(["hi"])
