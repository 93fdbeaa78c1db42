"""Feeding a batch and taking its results at once; taking them one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import msgspec

from darkq.batch_ends import Finished

Pages: TypeAlias = AsyncGenerator[list[Finished], None]
Acknowledge: TypeAlias = Callable[[Sequence[Finished]], Awaitable[None]]
PutAgain: TypeAlias = Callable[[list[int]], Awaitable[None]]


async def taken(
    pages: Pages, acknowledge: Acknowledge, again: PutAgain | None = None, *, after: int = 0
) -> AsyncGenerator[Finished, None]:
    """Yield the ends of pages one by one; acknowledge those that were taken.

    Those through `after` were taken before. `again` gets the missing ones, which then are not
    yielded.
    """
    async with aclosing(pages):
        async for ends in pages:
            page = [_known(end) if int(end.cursor) <= after else end for end in ends]
            count = 0
            try:
                for finished in page:
                    is_new = int(finished.cursor) > after
                    if is_new and (again is None or finished.outcome != "missing"):
                        yield finished
                    count += 1
            finally:
                await acknowledge(page[:count])
            if again is not None:
                await again([end.number for end in page if end.outcome == "missing"])


def _known(end: Finished) -> Finished:
    """Take an end for one that was there, so that its line is not run again."""
    return msgspec.structs.replace(end, outcome="completed") if end.outcome == "missing" else end


async def fed(
    feeding: Coroutine[Any, Any, None],
    pages: Pages,
    acknowledge: Acknowledge,
    again: PutAgain,
    *,
    after: int = 0,
) -> AsyncGenerator[Finished, None]:
    """Feed, and yield the ends meanwhile. Raises what feeding raises."""
    feeder = asyncio.create_task(feeding, name="darkq-batch-feed")
    try:
        ends = taken(_while_fed(pages, feeder), acknowledge, again, after=after)
        async with aclosing(ends):
            async for finished in ends:
                yield finished
        await feeder
    finally:
        feeder.cancel()
        await asyncio.wait([feeder])


async def _while_fed(pages: Pages, feeder: asyncio.Task[None]) -> Pages:
    async with aclosing(pages):
        while True:
            step = asyncio.ensure_future(anext(pages, None))
            try:
                await asyncio.wait([step, feeder], return_when=asyncio.FIRST_COMPLETED)
                if feeder.done():
                    feeder.result()
                page = await step
            finally:
                step.cancel()
                await asyncio.wait([step])
            if page is None:
                return
            yield page
