"""Workers that share an upstream's limits: at the service no window ever holds too much."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Job, JobFailed, JobHandle, Settings
from darkq.event import Started
from darkq.protocol.keys import JobKeys, LimitKeys
from darkq.redis.scripts.script import Command, Script
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.processes import WorkerProcess
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartProcess = Callable[[Settings], WorkerProcess]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]

FAST = {"retry_base_s": 0.01, "retry_max_s": 0.02}
KEYS = LimitKeys.of_upstream("darkai")


async def enqueue(client: Client, count: int, **wishes: Any) -> list[JobHandle]:
    return await client.enqueue_many(Job.create(f"job {n}", **wishes) for n in range(count))


async def is_(state: str, *jobs: JobHandle) -> bool:
    return all([(await job.status()).state == state for job in jobs])


async def start_order(jobs: Sequence[JobHandle]) -> list[int]:
    """The jobs' numbers in the order in which their calls began."""
    began_ms: list[int] = []
    for job in jobs:
        (started,) = [event async for event in job.events() if isinstance(event, Started)]
        began_ms.append(started.at_ms)
    return sorted(range(len(jobs)), key=began_ms.__getitem__)


def check_the_book(darkai: LocalDarkAI, *windows: tuple[int, float]) -> None:
    """No window held more calls than it may, as the service saw them come."""
    came_s = sorted(exchange.started_s for exchange in darkai.exchanges)
    for count, length_s in windows:
        spans_s = [b - a for a, b in zip(came_s, came_s[count:], strict=False)]
        assert min(spans_s, default=length_s) >= length_s, (count, length_s)


@pytest.mark.slow
@pytest.mark.timeout(300)  # eight processes take their time to start
async def test_eight_workers_never_exceed_a_limit_by_one(
    client: Client,
    redis: Redis,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_process: StartProcess,
) -> None:
    """Red when a grant counts from the question (`grant` in limit_admit.lua), or without a window.

    No tolerance: whatever the way of a call, it is counted for longer than at the service.
    """
    darkai = await start_darkai(Fault.parse("slow=0.3"), Fault.parse("slow=0.2"), chunks=2)
    settings = make_settings(darkai_url=darkai.url, darkai_limits="5/1,18/4")
    workers = [start_process(settings) for _ in range(8)]
    await wait_until("all to be ready", lambda: all(worker.ready for worker in workers), 150)
    jobs = await enqueue(client, 30, tries=1)
    await wait_until("one to be put off", lambda: is_("deferred", jobs[-1]))
    assert await redis.xlen(JobKeys.parse(jobs[-1].id).events) == 1, "only `queued` is told"
    for job in jobs:
        assert (await job.result(timeout_s=30)).text
    assert darkai.requests_seen == len(jobs)
    check_the_book(darkai, (5, 1.0), (18, 4.0))
    came_s = [exchange.started_s for exchange in darkai.exchanges]
    # Two rounds of the longer window take 4 s.
    assert max(came_s) - min(came_s) < settings.worker_lease_s, "no call waits for a lease to end"


async def test_one_after_the_other_in_the_order_they_came(
    client: Client,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    """Red when `generate` asks in no order, or who waits loses his place."""
    darkai = await start_darkai(chunks=3, chunks_per_s=100)
    # Whoever is not called when a place is free comes back when the lease would have ended.
    settings = make_settings(darkai_url=darkai.url, darkai_concurrency=1, worker_lease_s=300)
    start_worker(settings)
    jobs = await enqueue(client, 25, tries=1)
    for job in jobs:
        await job.result(timeout_s=60)
    assert await start_order(jobs) == list(range(25))
    for before, after in pairwise(darkai.exchanges):
        assert before.ended_s is not None
        assert before.ended_s <= after.started_s


async def test_urgent_jobs_do_not_stand_behind_bulk(
    client: Client,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai(chunks=3, chunks_per_s=60)
    start_worker(make_settings(darkai_url=darkai.url, darkai_concurrency=1))
    bulk = await enqueue(client, 10, priority="bulk")
    await wait_until("bulk to wait", lambda: is_("deferred", *bulk[-5:]))
    urgent = await client.enqueue("urgent")
    await urgent.result(timeout_s=10)
    assert not await is_("completed", bulk[-1])
    for job in bulk:
        await job.result(timeout_s=10)
    order = await start_order([*bulk, urgent])
    order.remove(10)
    assert order == list(range(10))


async def test_who_waits_holds_no_slot_and_burns_no_try(
    client: Client,
    redis: Redis,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    """Red when a job waits for its turn inside its attempt."""
    darkai = await start_darkai()
    start_worker(
        make_settings(
            darkai_url=darkai.url,
            darkai_limits="1/60",
            worker_jobs=1,
            worker_reserved_interactive=0,
        )
    )
    first, *others = await enqueue(client, 6, tries=1)
    await first.result(timeout_s=10)
    await wait_until("the others to be put off", lambda: is_("deferred", *others))
    with pytest.raises(JobFailed):  # it gets the only slot
        await (await client.enqueue("elsewhere", upstream="elsewhere")).result(timeout_s=10)
    for turn, job in enumerate(others, 1):
        status = await job.status()
        assert (status.state, status.tries) == ("deferred", 0)
        assert (turn - 1) * 60_000 < status.due_in_ms < turn * 60_000 + 10_000
        assert await redis.xlen(JobKeys.parse(job.id).events) == 1
    assert darkai.requests_seen == 1
    assert (await others[0].cancel()).state == "cancelled"
    for job in others:
        await job.cancel()


async def test_the_turn_of_a_cancelled_job_goes_to_the_next(
    client: Client,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    """Red when `Gate.keep` calls nobody."""
    darkai = await start_darkai()
    settings = make_settings(darkai_url=darkai.url, darkai_limits="1/1", worker_lease_s=1)
    start_worker(settings)
    jobs = await enqueue(client, 20)
    await wait_until("the last to be put off", lambda: is_("deferred", jobs[-1]))
    for job in jobs[1:-1]:
        await job.cancel()
    await jobs[-1].result(timeout_s=10)  # its own turn would be the twentieth second
    check_the_book(darkai, (1, 1.0))


async def test_places_of_a_killed_worker_are_free_within_its_lease(
    client: Client,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_process: StartProcess,
) -> None:
    """Red when places have no end."""
    darkai = await start_darkai(*[Fault.parse("hang=1")] * 2, chunks=3)
    settings = make_settings(darkai_url=darkai.url, darkai_concurrency=2, worker_lease_s=1, **FAST)
    first = start_process(settings)
    await wait_until("the first worker", lambda: first.ready)
    jobs = await enqueue(client, 5)
    await wait_until("two calls", lambda: darkai.requests_seen == 2)
    await wait_until("the others to wait", lambda: is_("deferred", *jobs[2:]))
    second = start_process(settings)
    await wait_until("the second worker", lambda: second.ready)
    first.send(signal.SIGKILL)
    for job in jobs:
        await job.result(timeout_s=60)


async def test_a_429_keeps_all_workers_away(
    client: Client,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    """Red without `block` in limit_report.lua."""
    darkai = await start_darkai(Fault.parse("429"), chunks=3)
    settings = make_settings(darkai_url=darkai.url, darkai_limits="4/1,100/9", **FAST)
    for _ in range(3):
        start_worker(settings)
    first = await client.enqueue("first", tries=2)
    await wait_until("the 429", lambda: darkai.requests_seen == 1)
    await wait_until("it to be tried again later", lambda: is_("deferred", first))
    jobs = await enqueue(client, 3, tries=1)
    for job in (first, *jobs):
        await job.result(timeout_s=10)
    refused_s, *others_s = sorted(exchange.started_s for exchange in darkai.exchanges)
    assert min(others_s) - refused_s >= 1
    assert len(others_s) == 4


class TestBreaker:
    async def test_it_opens_for_all_tries_one_at_a_time_and_closes_by_itself(
        self,
        client: Client,
        redis: Redis,
        make_settings: MakeSettings,
        start_darkai: StartDarkAI,
        start_worker: StartWorker,
    ) -> None:
        """Red when `room` is not 1 while half-open, or nobody is told that it has closed."""
        darkai = await start_darkai(*[Fault.parse("html=502")] * 60, chunks=3)
        settings = make_settings(
            darkai_url=darkai.url,
            breaker_failures=3,
            breaker_cooldown_s=0.1,
            breaker_cooldown_max_s=0.4,
            worker_lease_s=1,
            **FAST,
        )
        for _ in range(3):
            start_worker(settings)
        jobs = await enqueue(client, 12, tries=100)
        await wait_until("it to open", lambda: redis.hexists(KEYS.breaker, "open_until"))

        async def cooldown_ms() -> int:
            return int(await redis.hget(KEYS.breaker, "cooldown_ms") or 0)

        await wait_until("the longest cool-down", lambda: _equal(cooldown_ms, 400))
        await wait_until("all to wait", lambda: is_("deferred", *jobs))
        tries = [(await job.status()).tries for job in jobs]
        seen, begun_s = darkai.requests_seen, time.monotonic()
        await wait_until("some more probes", lambda: darkai.requests_seen >= seen + 4)
        assert time.monotonic() - begun_s > 3 * 0.4 - 0.1, "one per cool-down"
        burnt = sum([(await job.status()).tries for job in jobs]) - sum(tries)
        assert burnt <= 4, "and nobody else burns a try"

    async def test_after_an_outage_everything_is_done_soon(
        self,
        client: Client,
        make_settings: MakeSettings,
        start_darkai: StartDarkAI,
        start_worker: StartWorker,
    ) -> None:
        darkai = await start_darkai(*[Fault.parse("status=503")] * 12, chunks=3)
        settings = make_settings(
            darkai_url=darkai.url, breaker_failures=2, breaker_cooldown_s=0.5, **FAST
        )
        for _ in range(3):
            start_worker(settings)
        jobs = await enqueue(client, 40, tries=100)
        for job in jobs:
            await job.result(timeout_s=20)
        assert darkai.requests_seen == 12 + len(jobs)


async def _equal(read: Callable[[], Awaitable[int]], value: int) -> bool:
    return await read() == value


async def test_a_healthy_upstream_without_limits_costs_no_round_trip(
    client: Client,
    redis: Redis,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when `Call` always asks, or always reports."""
    calls: list[str] = []

    run = Script.run

    async def counted(self: Script, redis: Redis, command: Command) -> Any:
        if self.name.startswith("limit_"):
            calls.append(self.name)
        return await run(self, redis, command)

    monkeypatch.setattr(Script, "run", counted)
    darkai = await start_darkai(chunks=3)
    start_worker(make_settings(darkai_url=darkai.url, worker_lease_s=600))
    await (await client.enqueue("warm-up")).result(timeout_s=10)
    calls.clear()  # of the first heartbeat
    for job in await enqueue(client, 20):
        await job.result(timeout_s=10)
    assert calls == []
    assert await redis.keys("darkq:limit:*") == []
