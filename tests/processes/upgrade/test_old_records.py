"""What an older version has left in Redis, taken up by this one.

`tests/data/<version>/keys.jsonl` is everything that it kept, put back as it stood when it was
photographed; `record.py` has played it. Its places in time are in the past by now.
"""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, JobFailed, Settings, Status
from darkq.event import Completed, Queued
from darkq.protocol.keys import JobKeys
from darkq_local.local_darkai import LocalDarkAI
from processes.upgrade import photograph
from processes.upgrade.photograph import Kept
from support.servers import Server, binaries, running
from support.waiting import wait_until

DATA = Path(__file__).parents[2] / "data"
VERSIONS = sorted(path.parent.name for path in DATA.glob("*/keys.jsonl"))
ROOT = Path(__file__).parents[3]

StartWorker = Callable[[Settings], asyncio.Task[None]]


@pytest.fixture(scope="module")
def oldest_server() -> Iterator[Server]:
    with running(list(binaries().values())[-1]) as server:
        yield server


@pytest.fixture(params=["valkey", "oldest"])
def redis_server(request: pytest.FixtureRequest, oldest_server: Server) -> Iterator[Server]:
    if request.param == "oldest":
        yield oldest_server
        return
    with running(binaries()["valkey"]) as server:
        yield server


@pytest.fixture(params=VERSIONS)
async def jobs(request: pytest.FixtureRequest, redis: Redis) -> dict[str, str]:
    """Put everything back; return the ids of the jobs by the names in their metadata."""
    kept = photograph.decode((DATA / request.param / "keys.jsonl").read_bytes())
    await photograph.put_back(redis, kept)
    return dict(named(kept))


def named(kept: list[Kept]) -> Iterator[tuple[str, str]]:
    for each in kept:
        kind, _, arq_id = each.key.rpartition(":")
        name = re.search(r'"metadata":\{"name":"([^"]+)"\}', str(each.value))
        if name and kind in ("arq:job", "arq:result"):
            yield name[1], JobKeys.from_arq_id(arq_id).public_id


@pytest.fixture
def work(
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: StartWorker,
    make_settings: Callable[..., Settings],
) -> Callable[[], Awaitable[None]]:
    async def start() -> None:
        darkai = await start_darkai(chunks=3)
        start_worker(make_settings(darkai_url=darkai.url, worker_lease_s=1))

    return start


async def test_the_photograph_has_every_state_of_a_job(jobs: dict[str, str]) -> None:
    assert jobs.keys() == {
        *("completed", "failed", "cancelled", "tried again"),
        *("waiting", "running", "put off", "options"),
    }


async def test_what_has_ended_reads_as_ever(client: Client, jobs: dict[str, str]) -> None:
    done = client.job(jobs["completed"])
    result = await done.result(timeout_s=1)
    assert result.text == "".join([piece async for piece in done.text()]) != ""
    events = [event async for event in done.events()]
    assert isinstance(events[0], Queued)
    assert isinstance(events[-1], Completed)
    assert [event async for event in done.events(after=events[1].id)] == events[2:]
    status = await done.status()
    assert (status.state, status.attempt, status.model) == ("completed", 1, "llama-3-70b")
    assert (await client.job(jobs["tried again"]).status()).attempt == 2
    assert (await client.job(jobs["cancelled"]).status()).state == "cancelled"
    with pytest.raises(JobFailed) as failed:
        await client.job(jobs["failed"]).result(timeout_s=1)
    assert [(job.job_id, job.kept) async for job in client.failed()] == [
        (failed.value.job_id, True)
    ]


async def test_what_waits_and_what_a_dead_worker_had_is_run(
    client: Client, jobs: dict[str, str], work: Callable[[], Awaitable[None]]
) -> None:
    before = await states(client, jobs)
    assert (before["waiting"].state, before["waiting"].tenant) == ("queued", "alice")
    assert before["running"].attempt == 1
    await work()
    for name, attempt in (("waiting", 1), ("put off", 2)):
        result = await client.job(jobs[name]).result(timeout_s=20)
        assert (result.attempt, result.text != "") == (attempt, True), name
        assert result.text == "".join([piece async for piece in client.job(jobs[name]).text()])
    with pytest.raises(JobFailed, match="cannot honour the option temperature"):
        await client.job(jobs["options"]).result(timeout_s=10)
    # Its prompt asks to hang for ever.
    await wait_until("the second attempt", lambda: is_running(client, jobs["running"], attempt=2))
    await client.job(jobs["running"]).cancel()
    await client.job(jobs["failed"]).retry()
    with pytest.raises(JobFailed, match="unknown_upstream"):
        await client.job(jobs["failed"]).result(timeout_s=10)


async def is_running(client: Client, job_id: str, *, attempt: int) -> bool:
    status = await client.job(job_id).status()
    return (status.attempt, status.state) == (attempt, "running")


async def states(client: Client, jobs: dict[str, str]) -> dict[str, Status]:
    return {name: await client.job(job_id).status() for name, job_id in jobs.items()}


async def test_a_key_still_finds_its_job(client: Client, jobs: dict[str, str]) -> None:
    wishes: dict[str, Any] = {
        "metadata": {"name": "waiting"},
        "priority": "bulk",
        "tries": 2,
        "tenant": "alice",
    }
    again = await client.enqueue("Wait.", idempotency_key="waiting", **wishes)
    assert (again.duplicate, again.id) == (True, jobs["waiting"])
    assert [job.job_id for job in await client.jobs(tenant="alice")] == [again.id]


async def test_a_batch_goes_on(
    client: Client, jobs: dict[str, str], work: Callable[[], Awaitable[None]]
) -> None:
    await work()
    ((batch_id, added),) = [
        (known.batch_id, known.added) async for known in client.batches() if known.name
    ]
    assert added == 3
    async with client.batch(batch_id) as batch:
        rows = [f"line {n}" for n in range(5)]
        ends = {end.number async for end in batch.run(rows)}
    assert ends == {2, 3, 4, 5}, "the first was acknowledged"
    file_batches = (await client.file_batches.page(None, limit=10)).records
    assert [record.input_file_id for record in file_batches] == ["file-none"]


async def test_the_rest_reads_too(client: Client, jobs: dict[str, str]) -> None:
    (key,) = await client.api_keys.listed()
    assert (key.name, key.rate_per_s, key.concurrency) == ("alice", 1, 2)
    assert await client.reattachments.find("ab" * 32) == jobs["completed"]
    assert len(await client.workers()) == 1
    (upstream,) = await client.upstreams()
    assert (upstream.name, upstream.workers, upstream.waiting) == ("darkai", 1, 1)
    stats = await client.stats()
    assert stats.numbers
    assert [queue.priority for queue in await client.queues()] == ["interactive", "bulk"]
