"""How much unsent text a worker may hold."""

from __future__ import annotations

import asyncio

from darkq_worker.writing.attempt_log import Budget


async def test_budget_has_room_below_its_limit_only() -> None:
    budget = Budget(10)
    await asyncio.wait_for(budget.room(), 1)
    budget.spend(9)
    assert not budget.exhausted
    await asyncio.wait_for(budget.room(), 1)
    budget.spend(1)
    assert budget.exhausted


async def test_released_budget_wakes_waiting_tasks() -> None:
    budget = Budget(10)
    budget.spend(25)
    waiting = [asyncio.create_task(budget.room()) for _ in range(2)]
    await asyncio.sleep(0)
    budget.spend(-15)
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting), "10 of 10 are still spent"
    budget.spend(-1)
    await asyncio.wait_for(asyncio.gather(*waiting), 1)


async def test_budget_can_be_exhausted_again_after_a_wait() -> None:
    budget = Budget(10)
    budget.spend(10)
    budget.spend(-10)
    budget.spend(10)
    assert budget.exhausted
    waiting = asyncio.create_task(budget.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
