"""Tenants share the slots that a worker has for batches over files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from darkq import Settings
from darkq.serving.file_batches import FileBatch
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.files import runner as file_batch_runners
from darkq_worker.files.runner import AT_ONCE, FileBatchRunners
from integration.file_batches.conftest import Orders
from support.processes import WorkerProcess
from support.waiting import wait_until


async def states(orders: Orders, records: list[FileBatch]) -> list[str]:
    return [(await orders.client.file_batches.get(each.id)).state for each in records]


async def test_a_tenant_with_many_batches_does_not_keep_another_waiting(
    orders: Orders,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_process: Callable[[Settings], WorkerProcess],
) -> None:
    """Red when slots go to the oldest batches of all: Bob waits until one of Alice's has ended."""
    darkai = await start_darkai(chunks=2)
    stuck = [
        await orders.order(3, tenant="alice", prompt="[fault: stall=600] slow")
        for _ in range(AT_ONCE + 1)
    ]
    settings = make_settings(darkai_url=darkai.url, worker_jobs=50, worker_lease_s=2.0)
    start_process(settings)

    async def alice_has_all() -> bool:
        return (await states(orders, stuck)).count("in_progress") >= AT_ONCE

    await wait_until("all slots to be taken", alice_has_all, timeout_s=20)
    small = await orders.order(2, tenant="bob")
    ended = await wait_until("Bob's batch", lambda: orders.has_ended(small), timeout_s=20)
    assert ended is not None
    assert (ended.state, ended.completed) == ("completed", 2)
    assert "completed" not in await states(orders, stuck)


@pytest.mark.usefixtures("no_pauses")
async def test_of_one_tenant_the_oldest_is_first(
    orders: Orders, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the newest goes first, and when a slot moves though that makes nobody more equal."""
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.02)
    records = [await orders.order(1, tenant="alice") for _ in range(AT_ONCE + 2)]
    runners = FileBatchRunners(orders.client, orders.files, settings)
    looking = asyncio.create_task(runners.run())
    try:

        def all_may_pause() -> bool:
            return [each.may_pause for each in runners._running.values()] == [True] * AT_ONCE

        await wait_until("all slots to be taken", all_may_pause)
        assert set(runners._running) == {each.id for each in records[:AT_ONCE]}
        others = [await orders.order(1, tenant=name) for name in ("bob", "carol")]
        wanted = {records[0].id, records[1].id, *(each.id for each in others)}
        await wait_until("each to have its share", lambda: set(runners._running) == wanted)
        await orders.order(1, tenant="bob")  # with a slot more Bob would have what Alice has now
        await asyncio.sleep(0.2)
        assert set(runners._running) == wanted, "nothing is paused to no end"
    finally:
        looking.cancel()
        await asyncio.wait([looking])


@pytest.mark.usefixtures("no_pauses")
async def test_more_tenants_than_slots_take_turns(
    orders: Orders, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a slot is given up only by a tenant that has two."""
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.02)
    monkeypatch.setattr(file_batch_runners, "TURN_S", 0.1)
    records = [await orders.order(1, tenant=f"tenant {n}") for n in range(AT_ONCE + 2)]
    runners = FileBatchRunners(orders.client, orders.files, settings)
    looking = asyncio.create_task(runners.run())
    served: set[str] = set()

    def all_were_served() -> bool:
        served.update(runners._running)
        return served == {each.id for each in records}

    try:
        await wait_until("all to have a turn", all_were_served)
    finally:
        looking.cancel()
        await asyncio.wait([looking])
