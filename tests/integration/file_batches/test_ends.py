"""A batch over files always ends: its input deleted, its store failing, its jobs lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from darkq import Client, RedisUnavailable, Settings
from darkq.batches.batch import Batch
from darkq.errors import CorruptRecord, FileStoreUnavailable
from darkq.protocol.keys import FILE_BATCHES_OPEN, BatchKeys, tenant_file_batches
from darkq.serving.file_batches import FileBatch, FileBatchState
from darkq.serving.files import FileInfo, Files
from darkq_worker import main
from darkq_worker.files import run as file_batch
from darkq_worker.files import runner as file_batch_runners
from darkq_worker.files.input import Input
from darkq_worker.files.run import FileBatchRun
from darkq_worker.files.runner import FileBatchRunners
from integration.file_batches.conftest import NoRunners, Orders, StartDarkAI, StartWorker
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_pauses")


class Failing(Files):
    """A store that fails on demand."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.fails: set[str] = set()

    async def put_part(self, *args: Any) -> None:
        self._check("put_part")
        await super().put_part(*args)

    async def create(self, *args: Any, **options: Any) -> FileInfo:
        self._check("create")
        return await super().create(*args, **options)

    async def read(self, *args: Any) -> AsyncGenerator[bytes, None]:
        self._check("read")
        async for piece in super().read(*args):
            yield piece

    def _check(self, name: str) -> None:
        if name in self.fails:
            raise FileStoreUnavailable("IsBroken")


async def run(orders: Orders, files: Files, settings: Settings, batch_id: str) -> FileBatch:
    async with asyncio.timeout(5), orders.client.batch(batch_id) as batch:
        record = await orders.client.file_batches.get(batch_id)
        await FileBatchRun(orders.client, files, settings, batch, record).run()
    return await orders.client.file_batches.get(batch_id)


@pytest.fixture
async def fed(orders: Orders, settings: Settings, redis: Redis) -> Callable[..., Any]:
    """A batch in progress with so many of its lines added, and nobody running it."""

    async def fed(count: int, added: int, **options: Any) -> FileBatch:
        record = await orders.order(count, **options)
        async with orders.client.batch(record.id) as batch:
            turned = msgspec.structs.replace(record, state="in_progress", total=count)
            await orders.client.file_batches.turn(turned, before="validating", runner=batch.runner)
            lines = [line async for line in Input(Files(settings), record).lines([])]
            await batch.add_many(lines[:added])
        return turned

    return fed


async def test_input_deleted_before_validation_fails_the_batch(
    orders: Orders, settings: Settings
) -> None:
    record = await orders.order(3)
    await orders.files.delete(None, record.input_file_id)
    record = await run(orders, orders.files, settings, record.id)
    assert (record.state, [e.code for e in record.errors]) == ("failed", ["file_not_found"])


@pytest.mark.usefixtures("worker")
async def test_input_deleted_during_the_run_fails_the_batch_with_its_answers(
    orders: Orders, settings: Settings, fed: Callable[..., Any]
) -> None:
    """Red when the next runner only says that the file is gone, again and again."""
    record = await fed(9, 4)
    await orders.files.delete(None, record.input_file_id)
    record = await run(orders, orders.files, settings, record.id)
    assert (record.state, [e.code for e in record.errors]) == ("failed", ["file_not_found"])
    assert (record.completed, record.failed) == (4, 5)
    assert await orders.told(record) == ([f"c{n}" for n in range(4)], [])


@pytest.mark.usefixtures("worker")
async def test_input_deleted_after_all_lines_were_added_is_not_needed(
    orders: Orders, settings: Settings, fed: Callable[..., Any]
) -> None:
    record = await fed(5, 5)
    async with orders.client.batch(record.id) as batch:
        await batch.close_input()
    await orders.files.delete(None, record.input_file_id)
    record = await run(orders, orders.files, settings, record.id)
    assert (record.state, record.completed, record.errors) == ("completed", 5, ())


async def test_cancelled_line_whose_record_was_deleted_is_an_error(
    orders: Orders,
    settings: Settings,
    redis: Redis,
    fed: Callable[..., Any],
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red where the line is asked for again, or has no id in the file of errors."""
    record = await fed(3, 3)
    cancelled = BatchKeys.parse(record.id).job(2)
    await orders.client.job(cancelled.public_id).cancel()
    await redis.delete(cancelled.result)  # as `darkq purge` does
    monkeypatch.setattr(main, "FileBatchRunners", NoRunners)
    darkai = await start_darkai(chunks=3)
    start_worker(settings.model_copy(update={"darkai_url": darkai.url}))
    record = await run(orders, orders.files, settings, record.id)
    output, errors = await orders.told(record)
    assert (record.state, sorted(output), errors) == ("completed", ["c0", "c2"], ["c1"])
    assert darkai.requests_seen == 2


@pytest.mark.parametrize("window_s", [3600.0, 0.0])
async def test_a_batch_without_input_can_be_cancelled_and_expires(
    orders: Orders, settings: Settings, fed: Callable[..., Any], window_s: float
) -> None:
    record = await fed(5, 3, window_s=window_s)
    await orders.files.delete(None, record.input_file_id)
    if window_s:
        await orders.client.batch(record.id).cancel()
    record = await run(orders, orders.files, settings, record.id)
    assert record.state in ("cancelled", "expired", "failed")
    _, errors = await orders.told(record)
    assert len(errors) == 3


async def test_batch_expires_even_if_its_first_cancellation_fails(
    orders: Orders, settings: Settings, fed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the error of `cancel` ends the task that watches the window."""
    record = await fed(5, 5, window_s=1)
    cancel, failures = Batch.cancel, 3

    async def failing(batch: Batch) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise RedisUnavailable("away")
        return await cancel(batch)

    monkeypatch.setattr(Batch, "cancel", failing)
    record = await run(orders, orders.files, settings, record.id)
    assert (record.state, record.failed, failures) == ("expired", 5, -1)


@pytest.mark.usefixtures("worker")
async def test_batch_waits_for_a_failing_file_store(
    orders: Orders, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.02)
    monkeypatch.setattr(file_batch_runners, "MAX_BACKOFF_S", 0.1)
    files = Failing(settings)
    files.fails = {"put_part"}
    record = await orders.order(5)
    runners = FileBatchRunners(orders.client, files, settings)
    looking = asyncio.create_task(runners.run())
    try:
        await wait_until("a failure", lambda: bool(runners._backoffs))
        assert (await orders.client.file_batches.get(record.id)).ended_at is None
        files.fails = set()
        ended = await wait_until("the end", lambda: orders.has_ended(record))
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert ended is not None
    assert (ended.state, ended.completed) == ("completed", 5)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("fails", "state"), [("put_part", "failed"), ("read", "failed")])
async def test_permanently_failing_file_store_fails_the_batch(
    orders: Orders,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    state: FileBatchState,
) -> None:
    """Red when nothing but a working store can end a batch."""
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.02)
    monkeypatch.setattr(file_batch_runners, "MAX_BACKOFF_S", 0.1)
    monkeypatch.setattr(file_batch, "LEFTOVERS_KEPT_S", 1.0)
    files = Failing(settings)
    files.fails = {fails}
    record = await orders.order(5, window_s=2)
    runners = FileBatchRunners(orders.client, files, settings)
    looking = asyncio.create_task(runners.run())
    try:
        ended = await wait_until("the end", lambda: orders.has_ended(record))
        await wait_until("it is closed", lambda: _is_closed(orders))
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert ended is not None
    assert (ended.state, [e.code for e in ended.errors]) == (state, ["batch_not_finished"])


@pytest.mark.usefixtures("worker")
async def test_answers_are_delivered_if_the_file_store_recovers_after_the_end(
    orders: Orders, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a batch that was given up is left alone: its parts are deleted an hour later."""
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.02)
    monkeypatch.setattr(file_batch_runners, "MAX_BACKOFF_S", 0.1)
    files = Failing(settings)
    files.fails = {"create"}  # the parts are there, and cannot be put together
    record = await orders.order(5, window_s=2)
    looking = asyncio.create_task(FileBatchRunners(orders.client, files, settings).run())
    try:
        ended = await wait_until("the end", lambda: orders.has_ended(record))
        assert ended is not None
        assert (ended.state, ended.output_file_id) == ("failed", None)
        assert not await _is_closed(orders)
        files.fails = set()
        await wait_until("it is closed", lambda: _is_closed(orders))
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    late = await orders.client.file_batches.get(record.id)
    assert (late.state, late.ended_at, late.completed) == ("failed", ended.ended_at, 5)
    assert [error.code for error in late.errors] == ["batch_not_finished"]
    output, errors = await orders.told(record)
    assert (sorted(output), errors) == ([f"c{n}" for n in range(5)], [])


async def _is_closed(orders: Orders) -> bool:
    return await orders.client.file_batches.open() == []


async def test_error_while_adding_lines_ends_the_run_at_once(
    orders: Orders, settings: Settings, fed: Callable[..., Any]
) -> None:
    """Red when its error is only seen after the next page, which may never come."""
    record = await fed(5, 2)
    files = Failing(settings)
    files.fails = {"read"}
    async with asyncio.timeout(60):
        with pytest.raises(FileStoreUnavailable):
            await run(orders, files, settings, record.id)


async def test_lost_lines_of_a_cancelled_batch_are_in_the_error_file(
    orders: Orders, settings: Settings, fed: Callable[..., Any], redis: Redis
) -> None:
    """Red when only lines beyond the last one added are told: line 2 would be in neither file."""
    record = await fed(5, 3)
    lost = BatchKeys.parse(record.id).job(2)
    await redis.delete(lost.job, lost.events, lost.result)
    await redis.zrem("darkq:{0}:bulk", lost.arq_id)
    await orders.client.batch(record.id).cancel()
    record = await run(orders, orders.files, settings, record.id)
    output, errors = await orders.told(record)
    assert sorted(output + errors) == [f"c{n}" for n in range(5)]
    assert (record.state, record.completed + record.failed) == ("cancelled", 5)


async def test_a_job_lost_after_the_cancellation_does_not_keep_the_batch_open(
    orders: Orders,
    settings: Settings,
    fed: Callable[..., Any],
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when the batch is cancelled once only: it would wait for a job that is nowhere."""
    monkeypatch.setattr(file_batch, "CHECK_S", 0.05)
    record = await fed(3, 3)
    keys = BatchKeys.parse(record.id)
    await redis.hset(keys.batch, "cancel", "1")  # type: ignore[misc]
    for number in (1, 2, 3):
        lost = keys.job(number)
        await redis.delete(lost.job, lost.events)
        await redis.zrem("darkq:{0}:bulk", lost.arq_id)
    record = await run(orders, orders.files, settings, record.id)
    assert record.state == "cancelled"
    assert sorted((await orders.told(record))[1]) == ["c0", "c1", "c2"]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("is_closed", [False, True])
async def test_job_deleted_before_its_end_was_stored_runs_again(
    orders: Orders, settings: Settings, fed: Callable[..., Any], *, is_closed: bool
) -> None:
    """Red when the batch waits for what is deleted, or when the line is in neither file."""
    record = await fed(3, 3)
    async with orders.client.batch(record.id) as batch:
        if is_closed:
            await batch.close_input()
        await wait_until("the answers", lambda: has_answered(batch, 3))
    for number in (1, 3):
        await orders.client.job(BatchKeys.parse(record.id).job(number).public_id).delete()
    record = await run(orders, orders.files, settings, record.id)
    assert (record.state, record.completed, record.failed) == ("completed", 3, 0)
    output, errors = await orders.told(record)
    assert (sorted(output), errors) == (["c0", "c1", "c2"], [])


async def has_answered(batch: Batch, count: int) -> bool:
    return (await batch.status()).completed == count


async def test_job_cancelled_and_deleted_singly_does_not_keep_the_batch_open(
    orders: Orders,
    settings: Settings,
    make_settings: Callable[..., Settings],
    fed: Callable[..., Any],
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when the batch waits for it, or runs it, or when the line is in neither file."""
    monkeypatch.setattr(main, "FileBatchRunners", NoRunners)
    record = await fed(2, 2)
    job = orders.client.job(BatchKeys.parse(record.id).job(1).public_id)
    await job.cancel()
    await job.delete()
    darkai = await start_darkai(chunks=1)
    start_worker(make_settings(darkai_url=darkai.url))
    record = await run(orders, orders.files, settings, record.id)
    assert (record.state, record.completed, record.failed) == ("completed", 1, 1)
    output, errors = await orders.told(record)
    assert (output, errors) == (["c1"], ["c0"])


async def test_too_many_lines_are_one_error(
    orders: Orders, make_settings: Callable[..., Settings]
) -> None:
    record = await orders.order(300)
    record = await run(orders, orders.files, make_settings(files_max_lines=10), record.id)
    assert [error.code for error in record.errors] == ["too_many_lines"]


async def test_a_batch_that_redis_has_lost_fails(
    orders: Orders, settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when its id is only taken off the list: its record would say `validating` for ever."""
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.02)
    record = await orders.order(3)
    await redis.delete(BatchKeys.parse(record.id).batch)
    looking = asyncio.create_task(FileBatchRunners(orders.client, orders.files, settings).run())
    try:
        ended = await wait_until("the end", lambda: orders.has_ended(record))
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert ended is not None
    assert (ended.state, [e.code for e in ended.errors]) == ("failed", ["batch_lost"])


async def test_foreign_batch_ids_stop_no_other_batch(
    client: Client,
    orders: Orders,
    settings: Settings,
    redis: Redis,
    worker: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when one record that cannot be read ends the look at all of them."""
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.02)
    foreign = BatchKeys.new(0)
    strange: dict[Any, float] = {b"\xff\xfe": 1, "x": 2, foreign.public_id: 3}
    await redis.zadd("darkq:{files}:open", strange)
    await redis.rpush(foreign.files, "a list")  # type: ignore[misc]
    await redis.expire(foreign.files, 60)
    record = await orders.order(3)
    looking = asyncio.create_task(FileBatchRunners(client, orders.files, settings).run())
    try:
        ended = await wait_until("the end", lambda: orders.has_ended(record))
        await redis.delete("darkq:{files}:open")
        await redis.set("darkq:{files}:open", "no zset", ex=60)
        await asyncio.sleep(0.1)
        assert not looking.done()
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert ended is not None
    assert ended.state == "completed"


async def test_foreign_batch_ids_hide_no_batch(
    client: Client, orders: Orders, redis: Redis
) -> None:
    """Red when one id or record that cannot be read fails the whole list."""
    record = await orders.order(3)
    foreign = BatchKeys.new(0)
    strange: dict[Any, float] = {b"\xff\xfe": 1, "x": 2, foreign.public_id: 3}
    for name in (FILE_BATCHES_OPEN, tenant_file_batches(None)):
        await redis.zadd(name, {key: time.time() - age for key, age in strange.items()})
    await redis.rpush(foreign.files, "a list")  # type: ignore[misc]
    await redis.expire(foreign.files, 60)
    assert (await client.file_batches.page(None, limit=9)).records == [record]
    assert await client.file_batches.reads(None, record.input_file_id) == record.id
    with pytest.raises(CorruptRecord):
        await client.file_batches.get(foreign.public_id)
