"""A batch without `await`, for scripts: `darkq.sync.Client.batch` makes one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from darkq import batch as asynchronous
from darkq.batch_ends import Finished, LineEnded
from darkq.batch_lines import ForAllLines
from darkq.batch_rows import Columns, Row
from darkq.batch_status import BatchStatus
from darkq.batch_tail import LineEvent

T = TypeVar("T")


class _Portal(Protocol):
    def call(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...

    def iterate(self, items: AsyncGenerator[T, None], /) -> Iterator[T]: ...


class Batch:
    """`darkq.Batch`, blocking. It belongs to the process that made it."""

    def __init__(self, portal: _Portal, batch: asynchronous.Batch) -> None:
        self.id = batch.id
        self._portal = portal
        self._batch = batch

    def run(
        self,
        rows: Iterable[Row],
        *,
        columns: Columns = asynchronous.COLUMNS,
        common: ForAllLines = asynchronous.FOR_ALL,
        after: str | None = None,
    ) -> Iterator[Finished]:
        """Run the batch, feed rows, and yield how they ended; see `darkq.Batch.run`.

        The rows are pulled in the client's thread.
        """
        return self._portal.iterate(self._run(rows, columns, common, after))

    def events(self, after: str | None = None) -> Iterator[LineEnded]:
        """Yield each line's end; see `darkq.Batch.events`."""
        return self._portal.iterate(self._batch.events(after))

    def tail(self, after: str | None = None) -> Iterator[LineEvent | LineEnded]:
        """Yield each job's events, and each line's end; see `darkq.Batch.tail`."""
        return self._portal.iterate(self._batch.tail(after))

    def status(self) -> BatchStatus:
        """Return where the batch stands; see `darkq.Batch.status`."""
        return self._portal.call(self._batch.status())

    def cancel(self) -> BatchStatus:
        """Cancel the batch; see `darkq.Batch.cancel`."""
        return self._portal.call(self._batch.cancel())

    async def _run(
        self, rows: Iterable[Row], columns: Columns, common: ForAllLines, after: str | None
    ) -> AsyncGenerator[Finished, None]:
        async with self._batch:
            ends = self._batch.run(rows, columns=columns, common=common, after=after)
            async with aclosing(ends):
                async for finished in ends:
                    yield finished

    def __repr__(self) -> str:
        return f"Batch({self.id!r})"
