"""A page of ends is bounded in bytes: 200 results of some megabytes do not come in one reply."""

from __future__ import annotations

from contextlib import aclosing

from redis.asyncio import Redis

from darkq import Client, Job, Line
from darkq.event import Cursor
from support.by_hand import Hand, chunk, started

LARGE, SMALL = 400_000, 10
SIZES = [SMALL] * 30 + [LARGE] * 10 + [1_500_000] + [SMALL] * 30


async def test_a_page_has_a_megabyte_of_results_or_a_single_one(
    client: Client, redis: Redis
) -> None:
    """Red with one MGET for a page of ends: it brings all of these texts at once."""
    hand, job = Hand(redis), Job.create("hello", priority="bulk")
    async with client.batch() as batch:
        await batch.add_many(
            Line(number=n, custom_id=f"c{n}", job=job) for n in range(1, len(SIZES) + 1)
        )
        for size in SIZES:
            (claim,) = await hand.claim(slots=1, bulk_slots=1)
            await hand.append(claim, started(1), chunk(1, 1))
            await hand.complete(claim, "x" * size, Cursor(1, 2))
        await batch.close_input()
        pages: list[list[int]] = []
        async with aclosing(batch.collected()) as found:
            async for page in found:
                pages.append([len(end.result.text) for end in page if end.result])
                await batch.acknowledge(page)
        assert [size for page in pages for size in page] == SIZES
        assert all(len(page) == 1 or sum(page) < 1_000_000 for page in pages)
        assert len(pages) == 7, "small ones come together"
        assert (await batch.status()).state == "completed"
