"""Redis answers with an error for a while, whatever it is asked: all that lives goes on living."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq import Client, DarkqError, JobHandle, RedisFull, RedisUnavailable, Settings
from darkq.event import AnyEvent, Completed
from darkq.telemetry.logging import LogEvent
from darkq_gateway.http import auth
from darkq_gateway.serve import gateway
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.files import runner as file_batch_runners
from support.http_api import Api
from support.refusing_proxy import ERRORS, RefusingProxy
from support.servers import Server
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]

REFUSED_S = 1.0
JOBS = 4


@pytest.fixture
async def proxy(redis_server: Server, tmp_path: Path) -> AsyncIterator[RefusingProxy]:
    async with RefusingProxy(redis_server.socket, tmp_path / "proxy.sock") as proxy:
        yield proxy


@pytest.fixture
def settings(
    make_settings: Callable[..., Settings], proxy: RefusingProxy, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Everything by way of the proxy, and each task of its own often enough to be refused."""
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.3, raising=False)
    monkeypatch.setattr(auth, "SLOT_LEASE_S", 0.6, raising=False)
    monkeypatch.setattr(auth, "CHECK_INTERVAL_S", 0.2, raising=False)
    return make_settings(
        redis_url=proxy.url,
        redis_patience_s=0.2,
        worker_lease_s=1.5,
        worker_poll_s=0.1,
        darkai_concurrency=50,
        worker_max_lost_leases=50,
        gateway_port=0,
        gateway_drain_s=0.5,
    )


async def read_to_the_end(job: JobHandle) -> list[AnyEvent]:
    """Read as a client does that comes back with its cursor. Any error but darkq's own ends it."""
    events: list[AnyEvent] = []
    while True:
        try:
            async for event in job.events(events[-1].id if events else None):
                events.append(event)  # noqa: PERF401  what came before an error counts
            return events
        except RedisUnavailable:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("error", sorted(ERRORS))
async def test_all_tasks_live_and_all_jobs_complete(
    error: str,
    redis: Redis,
    proxy: RefusingProxy,
    settings: Settings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when one task catches fewer errors than Redis has, or says each try."""
    caplog.set_level(logging.INFO)
    darkai = await start_darkai(chunks=30, chunks_per_s=15)
    settings = settings.model_copy(update={"darkai_url": darkai.url})
    worker = start_worker(settings)
    async with Client(settings=settings) as client:
        key, secret = await client.api_keys.create("alice", concurrency=9)
        jobs = [await client.enqueue(f"number {n}", tenant=key.tenant) for n in range(JOBS)]
        tails = [asyncio.create_task(read_to_the_end(job)) for job in jobs]
        async with gateway(settings) as url, Api(url, secret) as api:
            streaming = asyncio.create_task(api("GET", f"/jobs/{jobs[0].id}/result"))
            await wait_until("all calls", lambda: darkai.requests_seen >= JOBS)
            refused = proxy.refused
            with proxy.refusing(ERRORS[error]):
                await refuses(client, jobs[0], secret, error)
                await asyncio.sleep(REFUSED_S)
            assert proxy.refused > refused + 20
            for events in await asyncio.gather(*tails):
                assert isinstance(events[-1], Completed)
                assert len({event.id for event in events}) == len(events)
            async with asyncio.timeout(10):
                assert (await (await client.enqueue("later")).result(timeout_s=10)).text
                await wait_until("the gateway", lambda: is_ready(api))
                assert (await streaming).status in (200, 202, 503)  # done, not yet, or away
                assert (await api("GET", f"/jobs/{jobs[0].id}")).status == 200
    assert not worker.done()
    said = Counter(str(record.msg) for record in caplog.records if isinstance(record.msg, LogEvent))
    assert max(said.values()) <= JOBS + 1, said.most_common(3)
    await redis.delete("darkq:keys", *await redis.keys("darkq:key:*"))


async def refuses(client: Client, job: JobHandle, secret: str, error: str) -> None:
    """Whatever is called raises an error of darkq's."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: client.enqueue("hello"),
        lambda: client.enqueue_many(["one", "two"]),
        client.queues,
        client.workers,
        client.stats,
        client.fleet,
        client.jobs,
        client.upstreams,
        job.status,
        job.cancel,
        client.ping,
        client.queue("bulk").pause,
        client.worker("nobody").drain,
        client.batch().status,
        lambda: client.api_keys.find(secret),
    ]
    for answer in await asyncio.gather(*(call() for call in calls), return_exceptions=True):
        assert isinstance(answer, DarkqError), repr(answer)
        assert isinstance(answer, RedisFull) == (error == "OOM"), repr(answer)


async def is_ready(api: Api) -> bool:
    return (await api("GET", "/readyz")).status == 200
