"""Concurrent callers share round trips."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from darkq.redis.group_commit import GroupCommit


class Flushes:
    """A flush that can be held up, and remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.begun = asyncio.Event()
        self.running = 0

    async def __call__(self, items: Sequence[int]) -> list[int]:
        assert self.running == 0, "one call at a time"
        self.running += 1
        self.begun.set()
        try:
            self.batches.append(list(items))
            await self.open.wait()
            if -1 in items:
                raise ConnectionError("flush failed")
            return [item * 10 for item in items]
        finally:
            self.running -= 1


@pytest.fixture
def flushes() -> Flushes:
    return Flushes()


@pytest.fixture
def commit(flushes: Flushes) -> GroupCommit[int, int]:
    return GroupCommit(flushes, max_items=3)


async def test_alone_an_item_goes_at_once(commit: GroupCommit[int, int], flushes: Flushes) -> None:
    assert await commit.submit(1) == 10
    assert await commit.submit(2) == 20
    assert flushes.batches == [[1], [2]]


async def test_what_waits_goes_together_bounded_and_each_gets_its_own_reply(
    commit: GroupCommit[int, int], flushes: Flushes
) -> None:
    flushes.open.clear()
    calls = [asyncio.create_task(commit.submit(n)) for n in range(8)]
    await flushes.begun.wait()
    flushes.open.set()
    assert await asyncio.gather(*calls) == [n * 10 for n in range(8)]
    assert flushes.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_an_error_reaches_everyone_of_the_batch_and_nobody_else(
    commit: GroupCommit[int, int], flushes: Flushes
) -> None:
    calls = [commit.submit(n) for n in (1, -1, 2, 3)]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(reply) for reply in replies] == [ConnectionError] * 3 + [int]
    assert await commit.submit(4) == 40, "and it goes on"


async def test_cancelled_while_it_waits_an_item_is_not_sent(
    commit: GroupCommit[int, int], flushes: Flushes
) -> None:
    flushes.open.clear()
    first = asyncio.create_task(commit.submit(1))
    await flushes.begun.wait()
    second, third = (asyncio.create_task(commit.submit(n)) for n in (2, 3))
    await asyncio.sleep(0)
    second.cancel()
    flushes.open.set()
    assert (await first, await third) == (10, 30)
    assert flushes.batches == [[1], [3]]


async def test_cancelling_one_caller_in_flight_harms_no_other(
    commit: GroupCommit[int, int], flushes: Flushes
) -> None:
    flushes.open.clear()
    calls = [asyncio.create_task(commit.submit(n)) for n in range(3)]
    await flushes.begun.wait()
    calls[0].cancel()
    flushes.open.set()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(replies[0], asyncio.CancelledError)
    assert replies[1:] == [10, 20]


async def test_a_batch_that_everybody_left_is_not_sent(
    commit: GroupCommit[int, int], flushes: Flushes
) -> None:
    call = asyncio.create_task(commit.submit(1))
    await asyncio.sleep(0)
    call.cancel()
    await commit.aclose()
    assert flushes.batches == []


async def test_a_flush_with_too_few_replies_is_an_error_not_a_hang() -> None:
    async def forgetful(items: Sequence[int]) -> list[int]:
        return []

    commit: GroupCommit[int, int] = GroupCommit(forgetful, max_items=3)
    with pytest.raises(ValueError, match="zip"):
        await commit.submit(1)


async def test_closing_waits_for_all_that_was_submitted(
    commit: GroupCommit[int, int], flushes: Flushes
) -> None:
    calls = [asyncio.create_task(commit.submit(n)) for n in range(7)]
    await asyncio.sleep(0)
    await commit.aclose()
    assert await asyncio.gather(*calls) == [n * 10 for n in range(7)]
    await commit.aclose()


async def test_a_loop_that_ends_leaves_no_caller_waiting(
    commit: GroupCommit[int, int], flushes: Flushes
) -> None:
    flushes.open.clear()
    calls = [asyncio.create_task(commit.submit(n)) for n in range(5)]
    await flushes.begun.wait()
    assert commit._task is not None
    commit._task.cancel()
    done, waiting = await asyncio.wait(calls, timeout=5)
    assert not waiting
    assert all(call.cancelled() for call in done)
