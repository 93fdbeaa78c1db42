"""Workers that an operator drains, processes of their own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from darkq import Client, InvalidJob, JobHandle, Settings, WorkerNotFound
from darkq.operate.workers import Drain
from darkq.protocol.keys import WORKERS, WorkerKeys
from darkq_worker.loop import worker as leased_worker
from support.processes import WorkerProcess
from support.refusing_proxy import ERRORS, RefusingProxy
from support.servers import Server
from support.waiting import wait_until

MakeSettings = Callable[..., Settings]
StartProcess = Callable[[Settings], WorkerProcess]
SLOW = "[fault: slow=0.4] x"


async def busy(client: Client, worker: WorkerProcess, count: int) -> list[JobHandle]:
    """Jobs that a worker has begun."""
    await wait_until("the worker", lambda: worker.ready)
    jobs = await client.enqueue_many([SLOW] * count)

    async def all_run() -> bool:
        return all([(await job.status()).state == "running" for job in jobs])

    await wait_until("all of them", all_run)
    return jobs


async def id_of(client: Client, process: WorkerProcess) -> str:
    async def find() -> str:
        return next((w for w in await client.workers() if f":{process.pid}:" in w), "")

    return await wait_until("its sign of life", find)


@pytest.mark.parametrize("patient", [False, True])
async def test_it_finishes_what_it_runs_takes_nothing_more_and_exits(
    client: Client, served: MakeSettings, start_process: StartProcess, patient: bool
) -> None:
    """Without patience the grace is none, and what runs is handed back at once."""
    worker = start_process(served(worker_shutdown_grace_s=0.01))
    jobs = await busy(client, worker, 3)
    drain = await client.worker(await id_of(client, worker)).drain(patient=patient, by="ann")
    assert (drain.by, drain.patient, drain.stay) == ("ann", patient, False)
    later = await client.enqueue("later")
    assert await worker.wait() == 0
    assert "by=ann" in worker.log.read_text()
    assert (await later.status()).attempt == 0
    assert {(await job.status()).state for job in jobs} == {"completed" if patient else "queued"}
    start_process(served())
    assert (await later.result(timeout_s=10)).attempt == 1
    for job in jobs:
        assert (await job.result(timeout_s=20)).attempt == (1 if patient else 2)


async def test_one_that_stays_is_idle_until_it_is_told_otherwise(
    client: Client, served: MakeSettings, start_process: StartProcess
) -> None:
    worker = start_process(served())
    (job,) = await busy(client, worker, 1)
    handle = client.worker(await id_of(client, worker))
    await handle.drain(stay=True)
    assert (await job.result(timeout_s=10)).attempt == 1
    later = await client.enqueue("later")
    (leases,) = await client.leases()
    assert (leases.running, leases.drained and leases.drained.stay) == (0, True)
    assert (await later.status()).state == "queued"
    await handle.undrain()
    await later.result(timeout_s=10)
    assert "claims again" in worker.log.read_text()


async def test_another_worker_goes_on(
    client: Client, served: MakeSettings, start_process: StartProcess
) -> None:
    drained, other = start_process(served()), start_process(served())
    await wait_until("both", lambda: drained.ready and other.ready)
    await client.worker(await id_of(client, drained)).drain()
    assert await drained.wait() == 0
    await (await client.enqueue("x")).result(timeout_s=10)
    assert other.alive


async def test_a_word_whose_message_is_lost_is_read_with_the_next_sign_of_life(
    client: Client,
    redis: Redis,
    served: MakeSettings,
    start_worker: Callable[[Settings], asyncio.Task[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leased_worker, "HEALTH_INTERVAL_S", 0.05)
    task = start_worker(served(worker_poll_s=0.05))
    (worker_id,) = await wait_until("its sign of life", client.workers)
    orders = msgspec.json.encode(Drain(since_ms=1))
    await redis.set(WorkerKeys(worker_id).drain_request, orders, ex=60)
    await wait_until("its end", task.done)
    assert not await redis.exists(WorkerKeys(worker_id).drain_request)


async def test_orders_outlive_an_outage_in_which_the_worker_seems_dead(
    client: Client,
    redis: Redis,
    served: MakeSettings,
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Red when whoever lists workers deletes more of one without a health record than its name."""
    start_worker(served())
    (worker_id,) = await wait_until("its sign of life", client.workers)
    handle = client.worker(worker_id)
    await handle.drain(stay=True)
    await redis.delete(WorkerKeys(worker_id).health)  # as 11 s without Redis do
    for read in (client.workers, client.leases, client.fleet, client.upstreams):
        await read()
    assert await redis.exists(WorkerKeys(worker_id).drain_request)
    assert not await redis.exists(WORKERS)
    await handle.undrain()


async def test_a_sign_of_life_that_failed_is_repeated_until_it_has_come(
    client: Client,
    redis: Redis,
    redis_server: Server,
    served: MakeSettings,
    start_worker: Callable[[Settings], asyncio.Task[None]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Red when a failed sign counts as given: the next is due when the record has long expired."""
    monkeypatch.setattr(leased_worker, "HEALTH_INTERVAL_S", 600)
    async with RefusingProxy(redis_server.socket, tmp_path / "proxy.sock") as proxy:
        with proxy.refusing(ERRORS["NOPERM"]):
            worker = start_worker(served(redis_url=proxy.url))
            await wait_until("some refusals", lambda: proxy.refused > 10)
            assert not worker.done()
            assert not await redis.exists(WORKERS)
        await wait_until("its sign of life", client.workers)
        worker.cancel()
        await asyncio.wait([worker])


async def test_a_patient_one_still_hears_a_signal(
    client: Client, served: MakeSettings, start_process: StartProcess
) -> None:
    worker = start_process(served())
    await wait_until("the worker", lambda: worker.ready)
    job = await client.enqueue("[fault: hang=1] x")
    async for _ in job.text():
        break
    await client.worker(await id_of(client, worker)).drain(patient=True)
    await wait_until("it has heard", lambda: "drained" in worker.log.read_text())
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    assert (await job.status()).state == "queued"


async def test_what_cannot_be_drained_is_said(client: Client, redis: Redis) -> None:
    with pytest.raises(WorkerNotFound, match="no worker nobody is alive"):
        await client.worker("nobody").drain()
    with pytest.raises(InvalidJob):
        await client.worker("nobody").drain(by="\n")
    await client.worker("nobody").undrain()
