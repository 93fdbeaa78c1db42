"""The command, a gateway, batches from a file and operators' words, over a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr

from darkq import Client, Settings
from darkq_gateway.serve import gateway
from darkq_local.local_darkai import LocalDarkAI
from support.cluster import RealCluster
from support.command import Darkq, Done
from support.http_api import Api
from support.servers import binaries, running
from support.waiting import wait_until

from .conftest import PARTITIONS

pytestmark = pytest.mark.slow

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]
Run = Callable[..., Awaitable[Done]]


@pytest.fixture
async def served(
    settings: Settings, start_darkai: StartDarkAI, start_worker: StartWorker
) -> Settings:
    """Settings of what a worker serves."""
    darkai = await start_darkai()
    served = settings.model_copy(update={"darkai_url": darkai.url})
    start_worker(served)
    return served


@pytest.fixture
def run(cluster: RealCluster, tmp_path: Path) -> Run:
    """Run `darkq` commands on the cluster."""
    darkq = Darkq(tmp_path, redis_url=cluster.url, partitions=str(PARTITIONS))

    async def run(*arguments: str) -> Done:
        return await asyncio.to_thread(darkq, *arguments)

    return run


async def test_the_command(served: Settings, run: Run) -> None:
    job_id = (await run("enqueue", "Why do people queue?")).line
    told = await run("tail", job_id)
    assert told.code == 0
    assert told.out
    assert (await run("result", job_id)).out == told.out
    queues = await run("queues", "--json")
    assert [queue["priority"] for queue in queues.objects] == ["interactive", "bulk"]
    doctor = await run("doctor", "--no-probe", "--json")
    verdicts = {each["check"]: each["verdict"] for each in doctor.objects}
    assert (verdicts["cluster"], verdicts["workers"]) == ("ok", "ok")


async def test_a_batch_from_a_file(served: Settings, run: Run, tmp_path: Path) -> None:
    prompts, answers = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("".join(f"prompt {n}\n" for n in range(60)))
    done = await run("batch", "run", str(prompts), "-o", str(answers))
    assert done.code == 0, done.err
    assert len(answers.read_text().splitlines()) == 60


async def test_a_gateway(served: Settings) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(
            gateway(served.model_copy(update={"gateway_port": 0, "gateway_drain_s": 1.0}))
        )
        api = await stack.enter_async_context(Api(url))
        for job_id in [await api.enqueue() for _ in range(10)]:
            events = await api.events(f"/jobs/{job_id}/events")
            assert json.loads(events[-1].data)["type"] == "completed"
            again = await api.events(f"/jobs/{job_id}/events", Last_Event_ID=events[2].id)
            assert again == events[3:]
        assert (await api("GET", "/readyz")).status == 200
        assert b"darkq_workers" in (await api("GET", "/metrics")).json


async def test_operators_words_reach_all_partitions(
    served: Settings, settings: Settings, run: Run
) -> None:
    """A pause holds each partition's queue, its end wakes the workers; so does a word to one."""
    assert (await run("queues", "pause", "interactive")).code == 0
    async with Client(settings=settings) as client:
        jobs = [await client.enqueue("prompt") for _ in range(20)]
        (status, _) = await client.queues()
        assert status.paused is not None
        assert (status.paused.partitions, status.waiting) == (PARTITIONS, 20)
        assert (await run("queues", "resume", "interactive")).code == 0
        for job in jobs:
            await job.result(timeout_s=10)
        (worker,) = await client.workers()
        await client.worker(worker).drain(stay=True)

        async def is_idle() -> bool:
            (leases,) = await client.leases()
            return leases.drained is not None

        await wait_until("the word", is_idle)
        late = await client.enqueue("prompt")
        await client.worker(worker).undrain()
        assert await late.result(timeout_s=10)
        await client.queue("bulk").pause()
        waiting = await client.enqueue("prompt", priority="bulk")
        async for _ in client.queue("bulk").purge():
            pass
        assert (await waiting.status()).state == "cancelled"
        await client.queue("bulk").resume()


async def test_a_backlog_moves_from_a_server_to_a_cluster(
    settings: Settings, served: Settings, tmp_path: Path
) -> None:
    """As one who outgrows it does: ids stay good."""
    with running(binaries()["valkey"]) as server:
        before = settings.model_copy(update={"redis_url": SecretStr(server.url)})
        async with Client(settings=before) as source, Client(settings=served) as target:
            jobs = await source.enqueue_many(["prompt"] * 1200)
            queue = source.queue("interactive")
            await queue.pause()
            await queue.close()
            async for _ in queue.move_to(target.queue("interactive")):
                pass
            for job in jobs:
                assert (await target.job(job.id).result(timeout_s=30)).text
            assert (await source.queues())[0].waiting == 0
