"""A runner is frozen at an await, another one ends the batch, and then the first goes on."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import BatchTaken, Client, Settings
from darkq.batches import results as batch_ends
from darkq.batches.batch import Batch
from darkq.errors import BatchFull, BatchNotFound, CursorGone
from darkq.protocol.keys import FILE_BATCHES_OPEN, BatchKeys
from darkq.serving.file_batches import FileBatches
from darkq.serving.files import Files
from darkq_worker.files.run import FileBatchRun, delete_leftovers
from integration.file_batches.conftest import Orders
from support.waiting import wait_until

NEVER = 1_000_000
POINTS = 8
PAGE_LINES = batch_ends.PAGE_LINES
LINES = 9
WINDOW = 4
"""So that there is more than one page."""


class Gate:
    """Freezes the run that passes it for the n-th time."""

    def __init__(self, stop_at: int) -> None:
        self.stop_at = stop_at
        self.stop_after = ""
        self.passed = 0
        self.names: list[str] = []
        self.frozen = asyncio.Event()
        self.go_on = asyncio.Event()

    async def passing(self, name: str) -> None:
        self.passed += 1
        self.names.append(name)
        if self.passed == self.stop_at or name == self.stop_after:
            self.stop_after = ""
            self.frozen.set()
            await self.go_on.wait()

    def guard(self, target: Any, *names: str) -> None:
        """Put the gate before and after each call of these methods."""
        for name in names:
            setattr(target, name, self._guarded(getattr(target, name), name))

    def _guarded(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            await self.passing(f"before {name}")
            found = await call(*args, **kwargs)
            await self.passing(f"after {name}")
            return found

        return guarded


class Slow(Client):
    """A client whose batches pass a gate."""

    gate: Gate

    def batch(self, *args: Any, **kwargs: Any) -> Batch:
        batch = super().batch(*args, **kwargs)
        self.gate.guard(
            batch, "status", "add_many", "close_input", "acknowledge", "answered_lines", "cancel"
        )
        return batch


async def run(client: Client, files: Files, settings: Settings, batch_id: str) -> str:
    """Run a batch as a worker does; return how that ended."""
    try:
        async with client.batch(batch_id) as batch:
            record = await client.file_batches.get(batch_id)
            await FileBatchRun(client, files, settings, batch, record).run()
    except (BatchTaken, BatchNotFound, CursorGone, BatchFull) as error:
        # A worker tries again later. `BatchFull` comes to a runner that was replaced: it adds lines
        # again whose ends the other one has taken, into a window that is full by now.
        return type(error).__name__
    return "ended"


async def frozen_at(
    point: int, orders: Orders, settings: Settings, redis: Redis, *, meanwhile: bool = False
) -> Gate:
    """Freeze a runner at a point, let another one run the batch, then let the first go on.

    `meanwhile`: it goes on when the other one has acknowledged its first page, else at the end.
    """
    record = await orders.order(LINES, lines_in_redis=WINDOW)
    await redis.zrem(FILE_BATCHES_OPEN, record.id)  # the worker only answers
    gate, files = Gate(point), Files(settings)
    gate.guard(files, "put_part", "create", "info", "part_names", "remove")
    async with Slow(settings=settings) as slow, Slow(settings=settings) as other:
        slow.gate, other.gate = gate, Gate(NEVER)
        file_batches: FileBatches = slow.file_batches
        gate.guard(file_batches, "turn", "parts", "close", "get")
        batch_ends.PAGE_LINES = 1  # the pages of the other one are larger
        first = asyncio.create_task(run(slow, files, settings, record.id))
        waiting = asyncio.create_task(gate.frozen.wait())
        await asyncio.wait([first, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        batch_ends.PAGE_LINES = PAGE_LINES
        if gate.frozen.is_set():
            await redis.delete(BatchKeys.parse(record.id).runner)  # as if its lease had run out
            other.gate.stop_after = "after acknowledge" if meanwhile else ""
            second = asyncio.create_task(run(other, orders.files, settings, record.id))
            stopped = asyncio.create_task(other.gate.frozen.wait())
            await asyncio.wait([second, stopped], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            before = await orders.has_ended(record)
            gate.go_on.set()
            await wait_until("the end of the first", first.done)
            assert await orders.has_ended(record) == before, (point, gate.names[-1])
            other.gate.go_on.set()
            assert await second == "ended"
        assert not first.cancelled()
        where = (point, gate.names[:point][-1], first.result())
    await check(orders, record.id, where)
    await delete_leftovers(orders.client, orders.files, record.id)
    await check(orders, record.id, where)
    ended = await orders.client.file_batches.get(record.id)
    named = {record.input_file_id, ended.output_file_id}
    assert {each.id for each in await orders.files.listed(None)} == named, where
    await orders.files.remove(None, record.input_file_id)
    await orders.files.remove(None, ended.output_file_id or "")
    return gate


async def check(orders: Orders, batch_id: str, where: object) -> None:
    record = await orders.client.file_batches.get(batch_id)
    output, errors = await orders.told(record)
    assert sorted(output) == sorted(f"c{n}" for n in range(LINES)), where
    assert (record.state, record.completed, record.failed, errors) == ("completed", LINES, 0, [])


@pytest.mark.usefixtures("worker", "no_pauses")
@pytest.mark.parametrize("meanwhile", [False, True])
async def test_runner_suspended_at_any_step_writes_each_line_once(
    orders: Orders, settings: Settings, redis: Redis, meanwhile: bool
) -> None:
    """Red when parts have the same name for every runner (one is replaced), when a part counts
    without its ends being acknowledged in that step (lines twice), or when the final state can be
    left."""
    undisturbed = await frozen_at(NEVER, orders, settings, redis)
    assert undisturbed.passed > 40, "these are too few awaits for a whole run"
    seed = secrets.randbits(32)
    print("seed", seed)
    points = random.Random(seed).sample(range(1, undisturbed.passed + 1), POINTS)
    for name in ("before put_part", "after put_part", "before acknowledge", "before create"):
        points.append(1 + undisturbed.names.index(name))
    for point in points:
        gate = await frozen_at(point, orders, settings, redis, meanwhile=meanwhile)
        assert gate.frozen.is_set() or point > gate.passed
