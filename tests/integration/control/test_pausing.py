"""Queues that are paused and closed under real workers, processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq import Client, InvalidJob, Job, JobCancelled, QueueClosed, Settings
from darkq.batches.lines import Line
from darkq.jobs.enqueue import Enqueuer
from darkq.operate.queue_state import MAX_NOTE_CHARS
from darkq.protocol.keys import BatchKeys, PartitionKeys
from darkq.sync import Client as SyncClient
from support.processes import WorkerProcess
from support.servers import binaries, running
from support.waiting import wait_until

MakeSettings = Callable[..., Settings]
StartProcess = Callable[[Settings], WorkerProcess]


async def test_a_pause_holds_for_all_workers_and_outlives_them(
    client: Client, served: MakeSettings, start_process: StartProcess
) -> None:
    """The workers look by themselves once a minute: what makes them begin is the resuming."""
    bulk, settings = client.queue("bulk"), served()
    workers = [start_process(settings) for _ in range(2)]
    await wait_until("the workers", lambda: all(worker.ready for worker in workers))
    await bulk.pause(why="moving")
    jobs = await client.enqueue_many(Job.create(f"job {n}", priority="bulk") for n in range(20))
    await (await client.enqueue("of the other queue")).result(timeout_s=10)
    workers[0].end()
    late = start_process(settings)
    await wait_until("a new worker", lambda: late.ready)
    await (await client.enqueue("of the other queue")).result(timeout_s=10)
    standing = await bulk.status()
    assert (standing.waiting, standing.running) == (20, 0)
    assert standing.paused is not None
    assert standing.paused.why == "moving"
    assert "@" in standing.paused.by
    assert (await jobs[0].cancel()).state == "cancelled"
    with pytest.raises(JobCancelled):
        await jobs[0].result(timeout_s=1)
    assert (await bulk.resume()).paused is None
    for job in jobs[1:]:
        assert (await job.result(timeout_s=10)).attempt == 1


async def test_a_running_job_is_not_paused(
    client: Client, served: MakeSettings, start_process: StartProcess
) -> None:
    worker = start_process(served())
    await wait_until("the worker", lambda: worker.ready)
    job = await client.enqueue("[fault: slow=0.5] x")
    async for _ in job.text():
        break
    await client.queue("interactive").pause()
    assert (await job.result(timeout_s=10)).attempt == 1


async def test_a_closed_queue_refuses_and_runs_out(
    client: Client, served: MakeSettings, start_process: StartProcess
) -> None:
    queue = client.queue("bulk")
    await client.enqueue_many(Job.create(f"job {n}", priority="bulk") for n in range(5))
    await queue.close(why="the last day")
    with pytest.raises(QueueClosed, match="the bulk queue accepts no new jobs") as raised:
        await client.enqueue("x", priority="bulk")
    assert raised.value.queue == "darkq:{0}:bulk"
    with pytest.raises(QueueClosed) as many:
        await client.enqueue_many(["a", Job.create("b", priority="bulk"), "c"])
    assert len(many.value.stored_ids) == 2
    start_process(served())
    standings = [standing async for standing in queue.draining()]
    assert standings[0].closed is not None
    assert standings[-1].waiting == standings[-1].running == 0
    assert (await queue.open()).closed is None
    await client.enqueue("x", priority="bulk")


async def test_lines_of_a_batch_wait_until_their_queue_is_open(client: Client) -> None:
    """`full` is what a batch waits for; `closed` would be its end."""
    orders = Enqueuer(client._redis, client._settings)
    async with client.batch() as batch:
        keys, line = BatchKeys.parse(batch.id), a_line()
        numbered = (line.number, line.job)
        await client.queue("bulk").close()
        assert await orders.put_lines(keys, [numbered]) == ["full"]
        assert (await batch.status()).added == 0
        await client.queue("bulk").open()
        assert await orders.put_lines(keys, [numbered]) == ["new"]


def a_line() -> Line:
    return Line(number=1, custom_id="", job=Job.create("a", priority="bulk"))


async def test_a_pause_survives_a_restart_of_redis(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with running(binaries()["valkey"], *options) as server:
        settings = Settings(_env_file=None, redis_url=server.url, state_dir=tmp_path)
        async with Client(settings=settings) as client:
            await client.queue("bulk").pause(why="for long")
            server.restart()
            standing = await client.queue("bulk").status()
    assert standing.paused is not None
    assert standing.paused.why == "for long"


async def test_a_note_is_bounded_and_a_queue_is_one_of_two(client: Client, redis: Redis) -> None:
    for words in ({"why": "x" * (MAX_NOTE_CHARS + 1)}, {"by": "\x1b[2J"}):
        with pytest.raises(InvalidJob):
            await client.queue("bulk").pause(**words)
    with pytest.raises(InvalidJob):
        client.queue("none")  # type: ignore[arg-type]
    assert not await redis.exists(PartitionKeys(0).control)


def test_the_same_without_await(settings: Settings, redis: Redis) -> None:
    with SyncClient(settings=settings) as client:
        queue = client.queue("bulk")
        assert queue.pause(why="w").paused is not None
        assert [queue.paused is not None for queue in client.queues()] == [False, True]
        assert queue.resume().paused is None
        assert queue.close().closed is not None
        assert queue.open().closed is None
        assert [standing.waiting for standing in queue.draining()] == [0]
