"""Many large prompts at once: calls are bounded in bytes, and nothing else has to wait for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.batches.lines import Line
from darkq.protocol.job import Job
from darkq.redis.group_commit import MAX_BYTES_PER_CALL, count_fitting

LARGE = "x" * (1 << 20)
COUNT = 200
OVERHEAD_BYTES = 20_000
LONGEST_GAP_S = 3.0  # below 0.1 s on a quiet machine


class Weighed(Redis):
    """A client that notes how many bytes each of its calls has."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sizes: list[int] = []

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.sizes.append(sum(len(arg) for arg in args if isinstance(arg, bytes)))
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


@pytest.fixture
async def weighed(client: Client, settings: Settings) -> AsyncIterator[Weighed]:
    redis = Weighed.from_url(settings.find_redis_url())
    client._orders._redis = redis
    yield redis
    await redis.aclose()


async def one_by_one(client: Client) -> None:
    await asyncio.gather(*(client.enqueue(LARGE) for _ in range(COUNT)))


async def many(client: Client) -> None:
    await client.enqueue_many([LARGE] * COUNT)


async def lines(client: Client) -> None:
    async with client.batch() as batch:
        await batch.add_many(
            Line(number=n + 1, custom_id=f"line {n}", job=Job.create(LARGE)) for n in range(COUNT)
        )


@pytest.mark.parametrize("put", [one_by_one, many, lines], ids=lambda put: put.__name__)
async def test_two_hundred_of_a_mebibyte_leave_no_gap(
    client: Client, weighed: Weighed, redis: Redis, put: Callable[[Client], Awaitable[None]]
) -> None:
    """Red when a call is bounded by its number of items alone."""
    gaps_s = {"loop": 0.0, "ping": 0.0}

    async def watch(
        what: str, do: Callable[[], Awaitable[object]], clock: Callable[[], float]
    ) -> None:
        while True:
            before_s = clock()
            await do()
            gaps_s[what] = max(gaps_s[what], clock() - before_s)

    watches = [
        asyncio.create_task(watch("loop", lambda: asyncio.sleep(0), time.thread_time)),
        asyncio.create_task(watch("ping", redis.ping, time.monotonic)),
    ]
    await put(client)
    for task in watches:
        task.cancel()
    print({what: f"{gap_s * 1000:.0f} ms" for what, gap_s in gaps_s.items()})
    assert max(weighed.sizes) <= len(LARGE) + OVERHEAD_BYTES, "one item, if it is that large"
    assert max(gaps_s.values()) < LONGEST_GAP_S
    await redis.flushall()


async def test_small_jobs_share_calls_up_to_a_megabyte(client: Client, weighed: Weighed) -> None:
    await client.enqueue("the first call also sends the script")
    weighed.sizes.clear()
    await client.enqueue_many(Job.create("x" * 10_000) for _ in range(400))
    calls = [size for size in weighed.sizes if size]
    assert len(calls) == 5
    assert all(size <= MAX_BYTES_PER_CALL + OVERHEAD_BYTES for size in calls)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([], 0),
        ([1, 1, 1, 1], 3),
        ([2_000_000, 1], 1),
        ([1, 999_999, 1], 2),
        ([1, 1_000_000], 1),
    ],
)
def test_how_many_items_fit_into_a_call(sizes: list[int], count: int) -> None:
    assert count_fitting(sizes, max_items=3) == count
