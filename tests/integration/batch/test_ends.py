"""How lines end: cancelled, expired before they were taken, taken by a process that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from darkq import BatchClosed, BatchTaken, Client, Finished, Job, Line, Settings
from darkq.batches import lease as batch_lease
from darkq.protocol.keys import BatchKeys
from support.waiting import wait_until

JobKeysLeft = Callable[[], Awaitable[list[bytes]]]
Start = Callable[[], Awaitable[None]]


def lines(*numbers: int, prompt: str = "hello") -> list[Line]:
    job = Job.create(prompt, priority="bulk")
    return [Line(number=number, custom_id=f"id-{number}", job=job) for number in numbers]


async def all_of(ends: AsyncIterator[Finished]) -> list[Finished]:
    return [end async for end in ends]


async def test_a_cancelled_batch_ends_each_of_its_jobs_and_takes_no_more(
    client: Client, settings: Settings, job_keys: JobKeysLeft
) -> None:
    async with client.batch() as batch:
        await batch.add_many(lines(*range(1, 51)))
        async with Client(settings=settings) as other:
            status = await other.batch(batch.id).cancel()
        assert (status.state, status.cancelled) == ("cancelled", 50)
        with pytest.raises(BatchClosed, match="cancelled"):
            await batch.add_many(lines(51))
        ends = await all_of(batch.results())
    assert [end.outcome for end in ends] == ["cancelled"] * 50
    assert {end.custom_id for end in ends} == {f"id-{number}" for number in range(1, 51)}
    assert await job_keys() == []
    assert (await batch.cancel()).state == "cancelled"


@pytest.mark.usefixtures("worker")
async def test_jobs_that_run_are_stopped_too(client: Client, redis: Redis) -> None:
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2, prompt="[fault: stall=1] slow"))
        held = lambda: redis.keys("arq:in-progress:*")  # noqa: E731
        await wait_until("both to run", lambda: _count(held, 2))
        assert (await batch.cancel()).state in ("cancelling", "cancelled")
        ends = await all_of(batch.results())
    assert [end.outcome for end in ends] == ["cancelled"] * 2
    assert (await batch.status()).state == "cancelled"


async def _count(ask: Callable[[], Awaitable[list[bytes]]], wanted: int) -> bool:
    return len(await ask()) == wanted


async def test_cancelling_forgets_a_line_whose_job_is_lost(client: Client, redis: Redis) -> None:
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2))
        lost = BatchKeys.parse(batch.id).job(2)
        await redis.delete(lost.job, lost.events)
        await redis.zrem("darkq:{0}:bulk", lost.arq_id)
        status = await batch.cancel()
        assert (status.state, status.added, status.cancelled) == ("cancelled", 1, 1)
        assert [end.number for end in await all_of(batch.results())] == [1]


@pytest.mark.usefixtures("worker")
async def test_what_has_expired_before_it_was_taken_is_missing_and_may_be_added_again(
    client: Client, redis: Redis, job_keys: JobKeysLeft
) -> None:
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2, 3))
        await batch.close_input()
        await wait_until("the end", lambda: _ended(client, batch.id, 3))
        await redis.delete(BatchKeys.parse(batch.id).job(2).result)
        pages = batch.collected()
        async with aclosing(pages):
            page = await anext(pages)
            assert {end.number: end.outcome for end in page} == {
                1: "completed", 2: "missing", 3: "completed",
            }  # fmt: skip
            await batch.acknowledge(page)
            status = await batch.status()
            assert (status.state, status.completed, status.outstanding) == ("open", 2, 1)
            await batch.add_many(lines(1, 2, 3))
            (end,) = await anext(pages)
            assert (end.number, end.outcome) == (2, "completed")
            await batch.acknowledge([end])
            assert [page async for page in pages] == []
    assert (await batch.status()).state == "completed"
    assert await job_keys() == []


@pytest.mark.usefixtures("worker")
async def test_run_runs_it_again_by_itself(client: Client, redis: Redis) -> None:
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2, 3))
        await wait_until("the end", lambda: _ended(client, batch.id, 3))
    await redis.delete(*(BatchKeys.parse(batch.id).job(n).result for n in (1, 3)))
    async with client.batch(batch.id) as batch:
        ends = await all_of(batch.run(["a", "b", "c", "d"]))
    assert sorted(end.number for end in ends) == [1, 2, 3, 4]
    assert all(end.outcome == "completed" for end in ends)


async def test_cancelled_line_whose_record_was_deleted_does_not_run(
    client: Client, redis: Redis, start: Start
) -> None:
    """Red where it counts as `missing`: then it is asked for, and paid for, after all."""
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2, 3))
    job = BatchKeys.parse(batch.id).job(2)
    assert (await client.job(job.public_id).cancel()).state == "cancelled"
    await redis.delete(job.result)  # as `darkq purge` does
    await start()
    async with client.batch(batch.id) as batch:
        ends = await all_of(batch.run(lines(1, 2, 3)))
        status = await batch.status()
    outcomes = {end.number: end.outcome for end in ends}
    assert outcomes == {1: "completed", 2: "cancelled", 3: "completed"}
    assert (status.state, status.completed, status.cancelled) == ("completed", 2, 1)


async def _ended(client: Client, batch_id: str, wanted: int) -> bool:
    return (await client.batch(batch_id).status()).ended == wanted


async def test_who_lost_its_lease_acknowledges_nothing(
    client: Client, settings: Settings, redis: Redis, start: Start
) -> None:
    async with client.batch() as batch, Client(settings=settings) as other:
        await batch.add_many(lines(1))
        await start()
        pages = batch.collected()
        async with aclosing(pages):
            page = await anext(pages)
            await redis.delete(BatchKeys.parse(batch.id).runner)  # as if it had run out
            async with other.batch(batch.id) as taker:
                with pytest.raises(BatchTaken):
                    await batch.acknowledge(page)
                assert (await taker.status()).acknowledged == 0
            await batch.acknowledge(page)  # nobody has it: it is ours again
            await batch.acknowledge(page)  # and twice is once
        status = await batch.status()
        assert (status.acknowledged, status.runner is not None) == (1, True)


async def test_the_lease_is_renewed(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lease, "LEASE_S", 0.2)
    async with client.batch() as batch:
        name = BatchKeys.parse(batch.id).runner
        token = await redis.get(name)
        await asyncio.sleep(0.5)
        assert await redis.get(name) == token


RUNNER = """
import asyncio, json, sys
from darkq import Client
async def main():
    async with Client() as client:
        async with client.batch(sys.argv[1], window=20) as batch:
            async for end in batch.run([f"prompt {n}" for n in range(1, 121)]):
                print(json.dumps([end.number, end.result.text]), flush=True)
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(300)  # it starts some twelve processes
@pytest.mark.usefixtures("worker")
async def test_a_runner_that_is_killed_again_and_again_loses_no_line_and_runs_none_twice(
    client: Client,
    settings: Settings,
    redis: Redis,
    job_keys: JobKeysLeft,
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    assert settings.redis_url is not None
    environment = {**os.environ, "DARKQ_REDIS_URL": settings.redis_url.get_secret_value()}
    async with client.batch(window=20) as batch:
        pass
    answers: dict[int, set[str]] = {}
    done, kills = False, 0
    while not done:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUNNER, batch.id, env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        left = chance.randrange(1, 40) if kills < 8 else 1000
        while line := await process.stdout.readline():
            number, text = json.loads(line)
            answers.setdefault(number, set()).add(text)
            left -= 1
            if left == 0:
                kills += 1
                process.send_signal(signal.SIGKILL)
        done = await process.wait() == 0
        await redis.delete(BatchKeys.parse(batch.id).runner)  # its lease would run out
    assert kills > 2
    assert sorted(answers) == list(range(1, 121))
    assert all(len(texts) == 1 for texts in answers.values())
    ((last, _),) = await redis.xrevrange(BatchKeys.parse(batch.id).ends, count=1)
    assert last == b"120-0", "no line was generated twice"
    status = await batch.status()
    assert (status.state, status.completed, status.acknowledged) == ("completed", 120, 120)
    assert await job_keys() == []


async def test_an_open_batch_tells_how_many_lines_it_was_made_for(client: Client) -> None:
    """Red when a progress can only be shown against the lines that were added."""
    async with client.batch(lines=50) as batch:
        await batch.add("hi")
        status = await batch.status()
        assert (status.expected, status.total, status.added) == (50, None, 1)
    async with client.batch() as unknown:
        assert (await unknown.status()).expected is None
