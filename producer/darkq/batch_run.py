"""Feeding a batch and taking its results at once; taking them one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol, TypeAlias

import msgspec

from darkq.batch_ends import Finished, Position
from darkq.errors import CursorGone
from darkq.replicas import replicated

Pages: TypeAlias = AsyncGenerator[list[Finished], None]
Acknowledge: TypeAlias = Callable[[Sequence[Finished]], Awaitable[None]]
PutAgain: TypeAlias = Callable[[list[int]], Awaitable[None]]
FeedAgain: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Collected(Protocol):
    """A batch, as far as its ends are taken."""

    def collected(self) -> Pages: ...

    async def acknowledge(self, page: Sequence[Finished], /) -> None: ...


async def taken(
    pages: Pages,
    acknowledge: Acknowledge,
    again: PutAgain | None = None,
    *,
    after: int = 0,
    before: set[int] | None = None,
) -> AsyncGenerator[Finished, None]:
    """Yield the ends of pages one by one; acknowledge those that were taken.

    Those through `after` were taken before, and so were those of the lines in `before`: a line
    is in it from when its end was taken until that is acknowledged. `again` gets the missing ones,
    which then are not yielded.
    """
    before = set() if before is None else before
    async with aclosing(pages):
        async for ends in pages:
            page = [
                _known(end) if _number(end) <= after or end.number in before else end
                for end in ends
            ]
            count, is_last = 0, False
            try:
                for finished in page:
                    is_new = _number(finished) > after and finished.number not in before
                    if is_new and (again is None or finished.outcome != "missing"):
                        yield finished
                        before.add(finished.number)
                    count += 1
                is_last = True
            finally:
                done = partial(acknowledge, page[:count])
                await (replicated(done) if is_last else done())  # who leaves does not wait
                before.difference_update(end.number for end in page[:count])
            if again is not None:
                await again([end.number for end in page if end.outcome == "missing"])


def _number(end: Finished) -> int:
    return Position.parse(end.cursor).number


def _known(end: Finished) -> Finished:
    """Take an end for one that was there, so that its line is not run again."""
    return msgspec.structs.replace(end, outcome="completed") if end.outcome == "missing" else end


async def fed(
    feeding: Coroutine[Any, Any, None],
    batch: Collected,
    again: PutAgain,
    feed_again: FeedAgain,
    *,
    after: int = 0,
) -> AsyncGenerator[Finished, None]:
    """Feed, and yield the ends meanwhile. Raises what feeding raises.

    When Redis has lost what was read, read again from what it knows as acknowledged. What it has
    lost of the lines is added again once the feeder has added all. An end that was yielded, and
    lost before it was acknowledged, is not yielded again.
    """
    before = set[int]()
    feeder = asyncio.create_task(feeding, name="darkq-batch-feed")
    leaving = False
    try:
        while True:
            pages = _while_fed(batch.collected(), feeder)
            try:
                ends = taken(pages, batch.acknowledge, again, after=after, before=before)
                async with aclosing(ends):
                    async for finished in ends:
                        leaving = True
                        yield finished
                        leaving = False
                await feeder
                return
            except CursorGone:
                if leaving:  # the caller closes us; what was lost comes again to the next one
                    return
                after = 0  # numbers up to there may stand for other ends now
                feeder = asyncio.create_task(_then(feeder, feed_again), name="darkq-batch-feed")
    finally:
        feeder.cancel()
        await asyncio.wait([feeder])


async def _then(feeder: asyncio.Task[None], feed_again: FeedAgain) -> None:
    await feeder
    await feed_again()


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
