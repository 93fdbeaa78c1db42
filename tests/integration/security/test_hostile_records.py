"""Whatever stands in a job's record, the worker lives, and the job ends with a reason."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from darkq import Client, JobFailed, Settings
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.prompt import MAX_PROMPT_BYTES
from darkq_local.local_darkai import LocalDarkAI
from darkq_local.models import load_model
from darkq_worker.main import run_worker
from support.by_hand import put
from support.servers import Server
from support.waiting import wait_until

GOOD: dict[str, Any] = {
    "v": 1, "t": None, "f": "generate", "a": [], "k": {"job": {"prompt": "hello"}}, "et": 1
}  # fmt: skip


def record(**job: Any) -> bytes:
    return json.dumps({**GOOD, "k": {"job": {"prompt": "hello", **job}}}).encode()


def outside(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


HOSTILE = {
    "nothing": b"",
    "no JSON": b"\x80\x04\x95",
    "no object": b"[]",
    "deep": b'{"k":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and unknown": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"," + outside()[1:],
    "another function": outside(f="os.system"),
    "a function with a line end": outside(f="x\nERROR darkq forged"),
    "a time beyond all": outside(et=10**30),
    "a time beyond any number": outside(et=10**400),
    "a time before all": outside(et=-(10**18)),
    "a time that is no number": outside(et="now"),
    "a prompt without words": record(prompt="  "),
    "a prompt past the limit": record(prompt="x" * (MAX_PROMPT_BYTES + 1)),
    "a lone surrogate": record(prompt="\ud800"),
    "a model with a line end": record(model="m\n2026-01-01 ERROR darkq.worker: forged"),
    "a model that commands the terminal": record(model="\x1b[2J"),
    "an upstream with a line end": record(upstream="u\r\nforged"),
    "a time limit below zero": record(timeout_s=-1),
    "a time limit beyond all": record(timeout_s=1e308),
    "tries beyond all": record(tries=10**9),
    "a file for a proxy": record(proxy="file:///etc/passwd"),
    "a proxy with a line end": record(proxy="http://h\r\nHost: other"),
    "metadata past the limit": record(metadata={"k": "v" * 20_000}),
    "no such role": record(prompt=[{"role": "root", "content": "x"}]),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_it_ends_as_failed_and_the_next_job_runs(
    name: str,
    redis: Redis,
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    darkai = await start_darkai(chunks=3)
    worker = start_worker(make_settings(darkai_url=darkai.url))
    keys = JobKeys.new(0)
    await put(redis, keys, record=HOSTILE[name])
    with pytest.raises(JobFailed) as caught:
        await client.job(keys.public_id).result(timeout_s=5)
    assert caught.value.code in ("bad_record", "unknown_function", "expired")
    assert darkai.requests_seen == 0
    assert (await (await client.enqueue("hello")).result(timeout_s=5)).text
    assert not worker.done()
    assert_no_forged_line(caplog)


@pytest.mark.parametrize(
    "log", [("SET", "x"), ("XADD", f"{2**64 - 1}-1", "e", "x"), ("XADD", f"1-{10**15}", "e", "x")]
)
async def test_a_log_that_is_none_of_ours_holds_nothing_up(
    log: tuple[str, ...],
    redis: Redis,
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Red without `last_writer` in claim.lua: the writer dies of it, or waits for ever."""
    darkai = await start_darkai(chunks=3)
    events = JobKeys.parse((await client.enqueue("spoilt")).id).events
    await redis.delete(events)
    await redis.execute_command(log[0], events, *log[1:])
    await redis.pexpire(events, 60_000)
    worker = start_worker(make_settings(darkai_url=darkai.url))
    for _ in range(2):
        assert (await (await client.enqueue("hello")).result(timeout_s=5)).text
    assert not worker.done()


async def test_an_end_that_redis_refuses_for_good_holds_nothing_up(
    redis: Redis,
    client: Client,
    start_darkai: Any,
    start_worker: Any,
    make_settings: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when the writer sends it again like any other: then a worker cannot close in order."""
    darkai = await start_darkai(chunks=2)
    await redis.set(PartitionKeys(0).failed, b"no list of failures", px=60_000)
    worker = start_worker(make_settings(darkai_url=darkai.url))
    refused = await client.enqueue("this fails", model="no such model")
    await wait_until("its attempt", partial(has_begun, client, refused.id))
    assert (await (await client.enqueue("this does not")).result(timeout_s=5)).text
    worker.cancel()
    await asyncio.wait_for(asyncio.wait([worker]), 10)
    assert "Redis unavailable during shutdown" not in caplog.text
    await redis.flushall()


async def has_begun(client: Client, job_id: str) -> bool:
    return (await client.job(job_id).status()).attempt > 0


async def test_a_log_that_was_replaced_in_mid_stream_ends_its_attempt_alone(
    redis: Redis, client: Client, start_darkai: Any, start_worker: Any, make_settings: Any
) -> None:
    """Red when `Writer._resume` takes it for a loss of the connection."""
    darkai = await start_darkai(chunks=400, chunks_per_s=200)
    start_worker(make_settings(darkai_url=darkai.url, redis_patience_s=5))
    jobs = [await client.enqueue("of two one is spoilt") for _ in range(2)]
    keys = [JobKeys.parse(job.id) for job in jobs]
    for each in keys:
        await wait_until("text", partial(is_longer, redis, each.events, 5))
    await redis.delete(keys[0].events)
    await redis.set(keys[0].events, b"no log", px=60_000)
    await redis.client_kill_filter(_type="normal", skipme=True)
    assert (await jobs[1].result(timeout_s=20)).chunks == 400
    await redis.flushall()


async def is_longer(redis: Redis, log: str, count: int) -> bool:
    return bool(await redis.xlen(log) > count)


def assert_no_forged_line(caplog: pytest.LogCaptureFixture) -> None:
    for entry in caplog.records:
        if entry.name.startswith("darkq"):
            assert entry.getMessage().isprintable(), repr(entry.getMessage())
            assert entry.exc_info is None


async def test_a_word_on_a_channel_that_is_none(
    redis: Redis,
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Red with `.decode()` in `LeasedWorker.deliver`: the worker would not be woken any more."""
    darkai = await start_darkai(chunks=3)
    start_worker(make_settings(darkai_url=darkai.url, worker_poll_s=60))
    running = await client.enqueue("[fault: stall=1] so that it has a job that may be meant")
    async for _ in running.text():
        break
    for word in (b"", b"cancel ", b"cancel \xff\xfe", b"\xff", b"cancel " + b"x" * 100_000):
        await redis.publish(PartitionKeys(0).wake, word)
    assert (await (await client.enqueue("hello")).result(timeout_s=5)).text
    assert (await running.cancel()).state == "cancelling"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
NAMES = ("prompt", "model", "upstream", "priority", "timeout_s", "tries", "metadata", "proxy")
JOBS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8)
RECORDS = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    JOBS.map(lambda job: record(**job)),
    st.dictionaries(st.sampled_from(("v", "t", "f", "a", "k", "et")), JSON).map(
        lambda fields: outside(**fields)
    ),
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=st.lists(RECORDS, min_size=10, max_size=30))
def test_any_records_at_all(
    redis_server: Server, caplog: pytest.LogCaptureFixture, records: list[bytes]
) -> None:
    """Many at once, so that one worker has to live through them all."""
    caplog.set_level(logging.DEBUG)
    asyncio.run(live_through(redis_server.url, records))
    assert_no_forged_line(caplog)
    assert "maximum recursion" not in caplog.text


async def live_through(url: str, records: list[bytes]) -> None:
    redis = Redis.from_url(url)
    await redis.flushall()
    async with a_worker(url) as worker, Client(url) as client:
        jobs = [JobKeys.new(0) for _ in records]
        for keys, data in zip(jobs, records, strict=True):
            await put(redis, keys, record=data)
        for keys in jobs:
            await wait_until("the end", partial(redis.exists, keys.result))
            assert (await client.job(keys.public_id).status()).state in ("failed", "completed")
        assert not worker.done()
    await redis.flushall()
    await redis.aclose()


@asynccontextmanager
async def a_worker(url: str) -> AsyncIterator[asyncio.Task[None]]:
    model = await load_model("markov", max_chunks=2, chunks_per_s=0)
    async with LocalDarkAI(model) as darkai:
        changes = {"redis_url": url, "darkai_url": darkai.url, "retry_base_s": 0.01, "job_tries": 1}
        worker = asyncio.create_task(
            run_worker(Settings.model_validate(changes), handle_signals=False)
        )
        try:
            yield worker
        finally:
            worker.cancel()
            await asyncio.wait([worker])
    await model.aclose()
