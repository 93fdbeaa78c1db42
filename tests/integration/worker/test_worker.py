"""A worker in this process, a real Redis, a local DarkAI over HTTP."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, ConfigurationError, JobCancelled, JobFailed, JobHandle, Settings
from darkq.event import AnyEvent, Cancelled, Chunk, Completed, Failed, Queued, Retrying, Started
from darkq.protocol.keys import WORKERS, JobKeys, PartitionKeys, WorkerKeys
from darkq.protocol.record import decode_result
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.loop.claiming import MAX_CLAIMS_PER_CALL
from darkq_worker.main import run_worker
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]

FAST = {"retry_base_s": 0.01, "retry_max_s": 0.02}
POLL_S = 60


async def events_of(job: JobHandle) -> list[AnyEvent]:
    return [event async for event in job.events()]


def text_of(events: list[AnyEvent], attempt: int) -> str:
    return "".join(
        event.text
        for event in events
        if isinstance(event, Chunk) and event.cursor.attempt == attempt
    )


def kinds(events: list[AnyEvent]) -> list[type]:
    """The kinds of events in order, a run of chunks as one."""
    return [
        type(event)
        for before, event in zip([None, *events], events, strict=False)
        if not (isinstance(event, Chunk) and isinstance(before, Chunk))
    ]


@pytest.fixture
async def world(
    client: Client,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> Callable[..., Awaitable[LocalDarkAI]]:
    """Start a local DarkAI and a worker that calls it."""

    async def start(
        *plan: Fault | None, chunks: int = 20, chunks_per_s: float = 0.0, **changes: Any
    ) -> LocalDarkAI:
        darkai = await start_darkai(*plan, chunks=chunks, chunks_per_s=chunks_per_s)
        start_worker(make_settings(darkai_url=darkai.url, **{**FAST, **changes}))
        return darkai

    return start


async def test_the_main_job(world: Any, client: Client, redis: Redis) -> None:
    await world()
    job = await client.enqueue("Tell me of spring.", model="gpt-4o", metadata={"user": "7"})
    events = await events_of(job)
    assert kinds(events) == [Queued, Started, Chunk, Completed]
    started = events[1]
    assert isinstance(started, Started)
    assert (started.attempt, started.model, started.upstream) == (1, "gpt-4o", "darkai")
    assert [event.id for event in events[:4]] == ["0-1", "1-0", "1-1", "1-2"]
    result = await job.result()
    assert result.text == text_of(events, 1) != ""
    assert result.chunks == sum(event.merged for event in events if isinstance(event, Chunk)) == 20
    assert (result.model, result.upstream, result.attempt) == ("gpt-4o", "darkai", 1)
    assert result.metadata == {"user": "7"}
    assert (await job.status()).state == "completed"
    keys = JobKeys.parse(job.id)
    assert await redis.exists(keys.job, keys.retry, keys.in_progress, keys.state) == 0
    stored = await redis.get(keys.result)
    assert b"Tell me of spring" not in stored, "the result must drop the prompt"
    assert decode_result(stored).s


async def test_below_saturation_every_chunk_is_an_event(world: Any, client: Client) -> None:
    await world(chunks=10, chunks_per_s=50)
    events = await events_of(await client.enqueue("slowly"))
    assert [event.merged for event in events if isinstance(event, Chunk)] == [1] * 10


async def test_an_enqueued_job_starts_without_waiting_for_the_poll(
    world: Any, client: Client
) -> None:
    """Red without the wake-up in `LeasedWorker.deliver`."""
    await world(worker_poll_s=POLL_S)
    warm_up = await client.enqueue("so that the worker is surely asleep")
    await warm_up.result(timeout_s=10)
    await asyncio.sleep(0.05)
    await (await client.enqueue("now")).result(timeout_s=POLL_S / 2)


async def test_a_worker_that_takes_no_more_passes_the_word_on(
    world: Any, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A drained worker is noted as the others are. Red without `Claiming._pass_on`."""
    caplog.set_level("INFO", "darkq.worker")
    await world(worker_poll_s=POLL_S, worker_jobs=100)
    (drained,) = await wait_until("the first", client.workers)
    await client.worker(drained).drain(stay=True, by="test")
    await wait_until("it to be drained", lambda: "drained" in caplog.text)
    await world(worker_poll_s=POLL_S, worker_jobs=50, worker_reserved_interactive=0)

    async def both() -> bool:
        return len(await client.workers()) == 2

    await wait_until("the second", both)
    for n in range(3):
        await (await client.enqueue(f"job {n}")).result(timeout_s=POLL_S / 2)


async def test_a_freed_slot_claims_without_waiting_for_the_poll(world: Any, client: Client) -> None:
    """Red without the wake-up in `LeasedWorker._ended`."""
    await world(worker_jobs=1, worker_reserved_interactive=0, worker_poll_s=POLL_S)
    jobs = await client.enqueue_many(["one", "two", "three"])
    for job in jobs:
        await job.result(timeout_s=POLL_S / 2)


async def test_bulk_leaves_slots_to_interactive_jobs(world: Any, client: Client) -> None:
    darkai = await world(chunks=200, chunks_per_s=5, worker_jobs=4, worker_reserved_interactive=1)
    bulk = [await client.enqueue("bulk", priority="bulk") for _ in range(6)]
    await wait_until("bulk to fill its slots", lambda: darkai.requests_seen == 3)
    urgent = await client.enqueue("urgent")
    await wait_until("the urgent job to start", lambda: darkai.requests_seen == 4)
    assert (await urgent.status()).state == "running"
    states = [(await job.status()).state for job in bulk]
    assert sorted(states) == ["queued"] * 3 + ["running"] * 3
    for job in (*bulk, urgent):
        await job.cancel()


async def test_slots_that_one_claim_cannot_fill_do_not_wait_for_the_poll(
    world: Any, client: Client
) -> None:
    """Red where a full claim is not followed by another."""
    urgent = await client.enqueue_many(["urgent"] * MAX_CLAIMS_PER_CALL)
    bulk = [await client.enqueue("bulk", priority="bulk") for _ in range(5)]
    darkai = await world(chunks=200, chunks_per_s=5, worker_jobs=200, worker_poll_s=60)
    await wait_until("all to start", lambda: darkai.requests_seen == MAX_CLAIMS_PER_CALL + 5)
    await asyncio.gather(*(job.cancel() for job in (*urgent, *bulk)))


async def test_a_failed_attempt_is_tried_again_and_never_mixed(world: Any, client: Client) -> None:
    await world(Fault.parse("truncate=3"))
    job = await client.enqueue("once more")
    events = await events_of(job)
    assert kinds(events) == [Queued, Started, Chunk, Retrying, Started, Chunk, Completed]
    retrying = next(event for event in events if isinstance(event, Retrying))
    assert (retrying.attempt, retrying.reason) == (1, "truncated")
    result = await job.result()
    assert result.attempt == 2
    assert result.text == text_of(events, 2)
    assert result.text.startswith(text_of(events, 1))


async def test_tries_run_out(world: Any, client: Client) -> None:
    darkai = await world(Fault.parse("error=2"), Fault.parse("error=2"), Fault.parse("error=2"))
    job = await client.enqueue("never", tries=2)
    events = await events_of(job)
    assert isinstance(events[-1], Failed)
    assert darkai.requests_seen == 2
    with pytest.raises(JobFailed) as caught:
        await job.result()
    assert caught.value.code == events[-1].code == "upstream_overloaded"
    assert (await job.status()).state == "failed"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("empty", "empty_answer"),
        ("truncate=1", "truncated"),
        ("reset=1", "truncated"),
        ("html=502", "upstream_overloaded"),
        ("429", "rate_limited"),
        ("429-in-200", "rate_limited"),
    ],
)
async def test_no_spoilt_answer_is_ever_completed(
    world: Any, client: Client, fault: str, code: str
) -> None:
    await world(Fault.parse(fault))
    job = await client.enqueue("spoilt", tries=1)
    events = await events_of(job)
    assert isinstance(events[-1], Failed)
    assert events[-1].code == code


@pytest.mark.parametrize("fault", ["malformed", "split=1", "swap", "final-only", "cr", "raw-utf8"])
async def test_a_strange_but_whole_answer_is_completed(
    world: Any, client: Client, fault: str
) -> None:
    await world(Fault.parse(fault), chunks=8)
    plain = await (await client.enqueue(f"[fault: {fault}] same")).result(timeout_s=10)
    again = await (await client.enqueue("same")).result(timeout_s=10)
    assert plain.text == again.text != ""


async def test_an_unknown_model_fails_at_once_and_says_what_is_known(
    world: Any, client: Client
) -> None:
    darkai = await world()
    job = await client.enqueue("hello", model="gpt-9")
    with pytest.raises(JobFailed, match=r"unknown model 'gpt-9'; known: llama-3-70b, gpt-4o"):
        await job.result(timeout_s=10)
    assert darkai.requests_seen == 0


async def test_an_unknown_upstream_fails_at_once(world: Any, client: Client) -> None:
    await world()
    with pytest.raises(JobFailed) as caught:
        await (await client.enqueue("hello", upstream="elsewhere")).result(timeout_s=10)
    assert caught.value.code == "unknown_upstream"


async def test_a_job_has_a_time_limit(world: Any, client: Client) -> None:
    darkai = await world(Fault.parse("stall=1"))
    job = await client.enqueue("slow", timeout_s=0.3, tries=1)
    with pytest.raises(JobFailed) as caught:
        await job.result(timeout_s=10)
    assert caught.value.code == "timeout"
    await wait_until("the connection to close", lambda: darkai.exchanges[0].ended_s is not None)


async def test_an_answer_has_a_size_limit(world: Any, client: Client) -> None:
    await world(chunks=200, max_result_chars=100)
    with pytest.raises(JobFailed) as caught:
        await (await client.enqueue("much")).result(timeout_s=10)
    assert caught.value.code == "answer_too_long"


async def test_cancelling_closes_the_upstream_before_it_is_said(world: Any, client: Client) -> None:
    """Red when `generate` does not close the stream before the settlement."""
    darkai = await world(chunks=200, chunks_per_s=20)
    job = await client.enqueue("endless")
    async for event in job.events():
        if event.id == "1-2":
            assert (await job.cancel()).state in ("cancelling", "cancelled")
    assert isinstance(event, Cancelled)
    exchange = darkai.exchanges[0]
    for _ in range(100):  # its kernel knows; the upstream, in this event loop too, soon does
        await asyncio.sleep(0)
    assert exchange.ended_s is not None
    assert exchange.outcome == "client left"
    with pytest.raises(JobCancelled):
        await job.result()
    assert (await job.cancel()).state == "cancelled"


async def test_cancelling_survives_a_missed_nudge(world: Any, client: Client, redis: Redis) -> None:
    """The durable flag is found by the heartbeat. Red without HEXISTS in renew.lua."""
    await world(chunks=200, chunks_per_s=20, worker_lease_s=1)
    job = await client.enqueue("endless")
    await wait_until("the job to run", lambda: _is(job, "running"))
    await redis.hset(JobKeys.parse(job.id).state, "cancel", "1")  # as cancel.lua, without PUBLISH
    with pytest.raises(JobCancelled):
        await job.result(timeout_s=5)


async def _is(job: JobHandle, state: str) -> bool:
    return (await job.status()).state == state


async def test_a_stopped_worker_hands_back_without_burning_a_try(
    client: Client,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai(chunks=30, chunks_per_s=50)
    settings = make_settings(darkai_url=darkai.url)
    first = start_worker(settings)
    job = await client.enqueue("keep going", tries=1)
    events: list[AnyEvent] = []
    async for event in job.events():
        events.append(event)
        if event.id == "1-3":
            first.cancel()
            start_worker(settings)
    retrying = next(event for event in events if isinstance(event, Retrying))
    assert (retrying.reason, retrying.retry_in_s) == ("worker_shutdown", 0)
    assert isinstance(events[-1], Completed)
    assert (await job.result()).text == text_of(events, 2)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (None, "expired"),
        (b"\x80\x04\x95", "bad_record"),
        (b'{"v":1,"f":"generate","a":[],"k":{"job":{"prompt":7}},"et":1}', "bad_record"),
        (b'{"v":1,"f":"os.system","a":[],"k":{"job":{"prompt":"x"}},"et":1}', "unknown_function"),
    ],
)
async def test_a_hostile_or_missing_record_fails_its_job_and_no_more(
    world: Any, client: Client, redis: Redis, record: bytes | None, code: str
) -> None:
    hostile, good = await client.enqueue("one"), await client.enqueue("two")
    if record is None:
        await redis.delete(JobKeys.parse(hostile.id).job)
    else:
        await redis.set(JobKeys.parse(hostile.id).job, record, px=60_000)
    await world()
    with pytest.raises(JobFailed) as caught:
        await hostile.result(timeout_s=10)
    assert caught.value.code == code
    assert (await good.result(timeout_s=10)).text


async def test_a_job_that_kills_its_workers_is_given_up(
    world: Any, client: Client, redis: Redis
) -> None:
    job = await client.enqueue("poison")
    keys = JobKeys.parse(job.id)
    await redis.hset(keys.state, mapping={"held": 1, "lost": 3})
    await redis.pexpire(keys.state, 60_000)
    darkai = await world(worker_max_lost_leases=3)
    with pytest.raises(JobFailed) as caught:
        await job.result(timeout_s=10)
    assert caught.value.code == "worker_lost"
    assert darkai.requests_seen == 0


async def test_a_reader_of_an_expired_job_hears_its_end(
    world: Any, client: Client, redis: Redis
) -> None:
    """Red when the log expires with the record."""
    job = await client.enqueue("too late")
    keys = JobKeys.parse(job.id)
    left_ms = await redis.pttl(keys.job)
    for key in (keys.job, keys.events):  # time passes
        await redis.pexpire(key, max(1, await redis.pttl(key) - left_ms))
    await wait_until("the record to expire", lambda: _gone(redis, keys.job))
    reading = asyncio.create_task(events_of(job))
    await world()
    events = await asyncio.wait_for(reading, 10)
    assert kinds(events) == [Queued, Failed]


async def _gone(redis: Redis, key: str) -> bool:
    return not await redis.exists(key)


async def test_workers_are_known_while_they_live(
    client: Client,
    redis: Redis,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai()
    workers = [start_worker(make_settings(darkai_url=darkai.url)) for _ in range(2)]
    await wait_until("both to be known", lambda: _count(client, 2))
    workers[0].cancel()
    await wait_until("one to sign out", lambda: _count(client, 1))
    (crashed,) = await client.workers()
    await redis.delete(WorkerKeys(crashed).health)  # as if it had expired
    assert await client.workers() == []
    assert not await redis.exists(WORKERS), "the dead are forgotten"


async def _count(client: Client, count: int) -> bool:
    return len(await client.workers()) == count


async def test_slots_that_no_bulk_job_could_get_are_refused(make_settings: MakeSettings) -> None:
    with pytest.raises(ConfigurationError, match="DARKQ_WORKER_RESERVED_INTERACTIVE"):
        await run_worker(make_settings(worker_jobs=5, worker_reserved_interactive=5))


async def test_a_backlog_older_than_a_day_still_runs(
    world: Any, client: Client, redis: Redis
) -> None:
    """Stock arq's records live for a day, and the job then fails as expired."""
    job = await client.enqueue("patience")
    keys, day_ms = JobKeys.parse(job.id), 24 * 3600 * 1000
    assert await redis.pttl(keys.job) > 2 * day_ms
    for key in (keys.job, keys.events):  # a day and an hour pass
        await redis.pexpire(key, await redis.pttl(key) - day_ms * 25 // 24)
    queue_key = PartitionKeys(keys.partition).queue("interactive")
    await redis.zincrby(queue_key, -day_ms * 25 / 24, keys.arq_id)
    await world()
    assert (await job.result(timeout_s=10)).text
