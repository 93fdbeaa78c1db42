"""Group commit: concurrent callers share round trips.

Items that wait are sent together as soon as the previous flush has returned. When idle, an item is
flushed at once and alone. Under load the batches grow, up to a number of items and of bytes: a
larger call would block both this process and Redis for too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Reply = TypeVar("Reply")

MAX_BYTES_PER_CALL = 1_000_000
"""A call carries at most this much, or a single larger item."""


def count_fitting(sizes: Iterable[int], *, max_items: int) -> int:
    """Return how many of the first items fit into one call. Reads no more sizes than it needs."""
    count = total = 0
    for size in sizes:
        total += size
        if count == max_items or (count and total > MAX_BYTES_PER_CALL):
            break
        count += 1
    return count


class GroupCommit(Generic[Item, Reply]):
    """Collects items of concurrent callers into calls of `flush`, one call at a time.

    `flush` takes up to `max_items` items and returns as many replies, in order. `size` returns the
    bytes of an item, where items may be large.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Reply]]],
        *,
        max_items: int,
        size: Callable[[Item], int] = lambda _: 0,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._size = size
        self._waiting: list[tuple[Item, asyncio.Future[Reply]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Reply:
        """Return the flush's reply to this item, or raise what the flush raised.

        If cancelled before its flush began, the item is not sent; after that it may be.
        """
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        # The flush runs in a task of its own, so the cancellation of one caller fails no other.
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="darkq-group-commit")
        return await future

    async def aclose(self) -> None:
        """Wait until everything submitted has been flushed."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            while self._waiting:
                sizes = (self._size(item) for item, _ in self._waiting)
                count = count_fitting(sizes, max_items=self._max_items)
                batch = self._waiting[:count]
                del self._waiting[:count]
                # A future that is done here belongs to a caller that was cancelled while waiting.
                await self._send([(item, future) for item, future in batch if not future.done()])
        finally:
            # No `await` since the last look at `_waiting`: a new item starts a new task.
            self._task = None
            for _, future in self._waiting:  # left only if this task was cancelled
                future.cancel()

    async def _send(self, batch: list[tuple[Item, asyncio.Future[Reply]]]) -> None:
        try:
            replies = await self._flush([item for item, _ in batch]) if batch else []
            pairs = list(zip(batch, replies, strict=True))
        except Exception as error:
            for _, future in batch:
                if not future.done():  # its caller may have been cancelled during the flush
                    future.set_exception(error)
        except BaseException:  # cancelled: no caller may wait for a flush that ends no more
            for _, future in batch:
                future.cancel()
            raise
        else:
            for (_, future), reply in pairs:
                if not future.done():
                    future.set_result(reply)
