"""A batch, fed and read by one process: every line ends once, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections import namedtuple
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import (
    BatchClosed,
    BatchFull,
    BatchNotFound,
    BatchTaken,
    Client,
    Columns,
    ForAllLines,
    InvalidJob,
    InvalidLine,
    Job,
    Line,
    Settings,
)
from darkq.batches import results as batch_results
from darkq.batches.feed import rows_to_lines
from darkq.jobs.enqueue import Enqueuer
from darkq.protocol.keys import BatchKeys, JobKeys, PartitionKeys
from darkq.redis.scripts import EnqueueOutcome
from support.waiting import wait_until

JobKeysLeft = Callable[[], Awaitable[list[bytes]]]
Row = namedtuple("Row", ["Index", "prompt", "custom_id"])  # as of DataFrame.itertuples()


def lines(*numbers: int, prompt: str = "hello") -> list[Line]:
    job = Job.create(prompt, priority="bulk")
    return [Line(number=number, custom_id=f"id-{number}", job=job) for number in numbers]


@pytest.mark.usefixtures("worker")
async def test_rows_of_any_kind_become_answers_and_leave_nothing(
    client: Client, job_keys: JobKeysLeft
) -> None:
    rows: list[Any] = [
        "one",
        {"prompt": "two", "custom_id": "b", "stars": 5},
        Job.create("three", priority="bulk"),
        Row(0, "four", 17),
    ]
    async with client.batch(name="reviews", metadata={"of": "may"}) as batch:
        found = [finished async for finished in batch.run(rows)]
    assert {end.number: end.custom_id for end in found} == {
        1: "line-1", 2: "b", 3: "line-3", 4: "17",
    }  # fmt: skip
    assert all(end.outcome == "completed" and end.result and end.result.text for end in found)
    status = await batch.status()
    assert (status.state, status.total, status.added) == ("completed", 4, 4)
    assert (status.completed, status.acknowledged, status.runner) == (4, 4, None)
    assert (status.name, status.metadata) == ("reviews", {"of": "may"})
    assert await job_keys() == []
    assert [known.batch_id async for known in client.batches()] == [batch.id]


@pytest.mark.usefixtures("worker")
async def test_a_window_bounds_what_is_in_redis_however_long_the_input(
    client: Client, redis: Redis, job_keys: JobKeysLeft
) -> None:
    most = 0

    async def rows() -> AsyncIterator[dict[str, str]]:
        for number in range(300):
            yield {"question": f"{number}?"}

    async with client.batch(window=20) as batch:
        keys = BatchKeys.parse(batch.id)
        numbers = []
        async for finished in batch.run(rows(), columns=Columns(prompt="question")):
            numbers.append(finished.number)
            most = max(most, len(await redis.keys("arq:job:*")) + len(await redis.keys("arq:re*")))
            assert await redis.zcard(keys.lines) <= 20
    assert sorted(numbers) == list(range(1, 301))
    assert most <= 2 * 20 + 20, "a job has a record or a result, and while it runs a counter"
    assert await job_keys() == []
    assert await redis.exists(keys.lines) == 0
    assert await redis.strlen(keys.acknowledged) == 300 // 8 + 1


@pytest.mark.usefixtures("worker")
async def test_run_again_it_goes_on_where_it_was(client: Client) -> None:
    rows = [f"prompt {number}" for number in range(60)]
    seen: list[int] = []
    batch = client.batch(window=10)
    async with batch, aclosing(batch.run(rows)) as ends:
        async for finished in ends:
            seen.append(finished.number)
            if len(seen) == 25:
                break
    taken = set(seen[:24])  # the last one was not taken: nobody asked for the next
    async with client.batch(batch.id) as again:
        rest = [finished.number async for finished in again.run(rows)]
    assert sorted([*taken, *rest]) == list(range(1, 61))
    assert (await again.status()).acknowledged == 60


@pytest.mark.usefixtures("worker")
async def test_how_lines_fail_is_told_and_nothing_of_them_is_kept(
    client: Client, redis: Redis, job_keys: JobKeysLeft
) -> None:
    async with client.batch() as batch:
        rows = ["fine", "[fault: status=403] no"]
        found = {end.number: end async for end in batch.run(rows)}
    assert found[1].outcome == "completed"
    assert (found[2].outcome, found[2].result, found[2].custom_id) == ("failed", None, "line-2")
    assert found[2].code
    assert found[2].message
    status = await batch.status()
    assert (status.completed, status.failed, status.state) == (1, 1, "completed")
    assert await redis.exists(PartitionKeys(0).failed) == 0
    assert await job_keys() == []


async def test_a_bad_row_is_named_and_what_was_before_it_stays(client: Client) -> None:
    async with client.batch() as batch:
        with pytest.raises(InvalidLine) as raised:
            async for _ in batch.run(["a", {"text": "b"}]):
                pass
    assert (raised.value.line, raised.value.field) == (2, "prompt")
    assert (await batch.status()).state == "open"


async def test_an_error_of_the_rows_comes_out(client: Client) -> None:
    async def rows() -> AsyncIterator[str]:
        yield "a"
        raise LookupError("mine")

    async with client.batch() as batch:
        with pytest.raises(LookupError, match="mine"):
            async for _ in batch.run(rows()):
                pass


async def test_a_line_added_again_changes_nothing(client: Client, redis: Redis) -> None:
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2, 3))
        await batch.add_many(lines(3, 2, 1, 4, prompt="another"))
        status = await batch.status()
        assert (status.added, status.last_line, status.outstanding) == (4, 4, 4)
        assert await redis.zcard(PartitionKeys(0).queue("bulk")) == 4
        assert await batch.add("five") == 5


async def test_a_full_window_that_nobody_empties_is_an_error(client: Client) -> None:
    async with client.batch(window=3) as batch:
        with pytest.raises(BatchFull) as raised:
            await batch.add_many(lines(*range(1, 10)))
        assert raised.value.window == 3
        assert (await batch.status()).added == 3


@pytest.mark.usefixtures("worker")
async def test_so_it_is_for_who_adds_while_taking_in_the_same_task(client: Client) -> None:
    async with client.batch(window=2) as batch:
        await batch.add_many(lines(1, 2))
        async with aclosing(batch.results()) as results:
            await anext(results)
            with pytest.raises(BatchFull):
                await batch.add_many(lines(3, 4, 5))


@pytest.mark.usefixtures("worker")
async def test_another_task_that_takes_results_makes_room(client: Client) -> None:
    async with client.batch(window=5) as batch:

        async def read() -> list[int]:
            return [finished.number async for finished in batch.results()]

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        await wait_until("the reader", lambda: _true(batch._feed._reader is not None))
        await batch.add_many(lines(*range(1, 31)))
        await batch.close_input()
        assert sorted(await reader) == list(range(1, 31))


async def _true(found: bool) -> bool:
    return found


async def test_one_process_runs_a_batch(client: Client, settings: Settings) -> None:
    async with client.batch() as batch, Client(settings=settings) as other:
        with pytest.raises(BatchTaken) as raised:
            async with other.batch(batch.id):
                pass
        assert raised.value.runner == (await other.batch(batch.id).status()).runner
        with pytest.raises(RuntimeError, match="runner"):
            await other.batch(batch.id).add("x")
    async with client.batch(batch.id):
        pass


async def test_an_unknown_batch_is_not_made_by_asking_for_it(client: Client, redis: Redis) -> None:
    for batch_id in (f"batch-0-{'0' * 32}", "batch-0-x", "0-" + "0" * 32):
        with pytest.raises(BatchNotFound):
            async with client.batch(batch_id):
                pass
        with pytest.raises(BatchNotFound):
            await client.batch(batch_id).status()
        with pytest.raises(BatchNotFound):
            await client.batch(batch_id).cancel()
    assert await redis.keys("*") == []


async def test_a_closed_batch_takes_nothing_new(client: Client) -> None:
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2))
        await batch.close_input()
        await batch.add_many(lines(1, 2))
        with pytest.raises(BatchClosed):
            await batch.add_many(lines(3))
        assert (await batch.status()).total == 2


async def test_an_empty_batch_is_completed(client: Client) -> None:
    async with client.batch() as batch:
        assert [end async for end in batch.run([], common=ForAllLines(model="m"))] == []
    assert (await batch.status()).state == "completed"


async def test_a_full_queue_is_waited_for(
    make_settings: Callable[..., Settings], start: Callable[[], Awaitable[None]]
) -> None:
    settings = make_settings(queue_max_jobs=4)
    async with Client(settings=settings) as client, client.batch() as batch:
        ends = asyncio.create_task(_all(batch.run(["x"] * 9)))
        await wait_until("a full queue", lambda: _added(client, batch.id, 4))
        await start()
        assert len(await ends) == 9


async def _all(ends: AsyncIterator[object]) -> list[object]:
    return [end async for end in ends]


async def _added(client: Client, batch_id: str, wanted: int) -> bool:
    try:
        return (await client.batch(batch_id).status()).added == wanted
    except BatchNotFound:
        return False


async def test_run_waits_before_it_takes_when_the_window_was_left_full(
    client: Client, start: Callable[[], Awaitable[None]]
) -> None:
    """Red when who feeds must have seen somebody take: `run` begins with both at once."""
    async with client.batch(window=3) as batch:
        await batch.add_many(lines(1, 2, 3))
    async with client.batch(batch.id) as batch:
        rows = rows_to_lines(["x"] * 5, Columns(), ForAllLines())
        feeder = asyncio.create_task(batch._feed.put_all(rows))
        await asyncio.wait([feeder], timeout=0.1)
        assert not feeder.done()
        await start()
        async with aclosing(batch.results()) as results:
            assert {(await anext(results)).outcome for _ in range(5)} == {"completed"}
        await feeder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", 0),
        ("window", 1.5),
        ("window", True),
        ("window", 100_001),
        ("name", ""),
        ("name", 7),
        ("name", "x" * 201),
        ("name", "two\nlines"),
        ("name", "\ud800"),
        ("metadata", {"a": 1}),
        ("metadata", {"a": "x" * 100_000}),
        ("metadata", "ab"),
    ],
)
async def test_what_a_batch_cannot_be_made_with_is_refused_at_once(
    client: Client, field: str, value: Any
) -> None:
    with pytest.raises(InvalidJob) as refused:
        client.batch(**{field: value})
    assert refused.value.field == field


@pytest.mark.usefixtures("worker")
async def test_a_line_that_waits_for_room_is_not_sent_over_and_over(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, put_lines = 0, Enqueuer.put_lines

    async def counted(
        orders: Enqueuer, batch: BatchKeys, some: list[tuple[int, Job]]
    ) -> list[EnqueueOutcome]:
        nonlocal sent
        sent += len(some)
        return await put_lines(orders, batch, some)

    monkeypatch.setattr(Enqueuer, "put_lines", counted)
    rows = 400
    async with client.batch(window=40) as batch:
        assert len([end async for end in batch.run(["x"] * rows)]) == rows
    assert sent <= 1.2 * rows


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("feeds_again", [False, True])
async def test_what_a_process_had_taken_when_it_was_killed_does_not_come_again(
    client: Client, redis: Redis, feeds_again: bool
) -> None:
    async with client.batch() as batch:
        await batch.add_many(lines(*range(1, 21)))

        async def is_over() -> bool:
            return (await batch.status()).ended == 20

        await wait_until("all ends", is_over)
        async with aclosing(batch.collected()) as pages:
            page = await anext(pages)
        taken = page[:7]  # and killed
    await redis.delete(JobKeys.parse(taken[2].job_id).result)  # expired since
    async with client.batch(batch.id) as batch:
        if feeds_again:
            ends = batch.run(["hello"] * 20, after=taken[-1].cursor)
        else:
            await batch.close_input()
            ends = batch.results(after=taken[-1].cursor)
        rest = [end async for end in ends]
    assert [end.number for end in taken + rest] == [end.number for end in page]
    status = await batch.status()
    assert (status.state, status.completed, status.acknowledged) == ("completed", 20, 20)


async def test_results_after_what_is_no_cursor_are_refused(client: Client) -> None:
    async with client.batch() as batch:
        for ends in (batch.results(after="x"), batch.run(["x"], after="x")):
            with pytest.raises(ValueError, match="cursor"):
                await anext(ends)


async def test_an_input_that_is_closed_while_ends_are_read_is_not_taken_for_lost(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when `Batch._ends` asks whether it has closed the input after the read."""
    read_ends = batch_results.read_ends

    async def read_and_close(*arguments: Any) -> batch_results.Page:
        page = await read_ends(*arguments)
        if not page.closed:
            await batch.close_input()
        return page

    monkeypatch.setattr(batch_results, "read_ends", read_and_close)
    async with client.batch() as batch:
        assert [end async for end in batch.results()] == []
