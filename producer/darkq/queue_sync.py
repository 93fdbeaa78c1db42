"""A queue without `await`, for scripts: `darkq.sync.Client.queue` makes one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from darkq import queue_handle as asynchronous
from darkq.purge import Purged
from darkq.queue_handle import Backlog
from darkq.queues import QueueStatus

T = TypeVar("T")


class _Portal(Protocol):
    def call(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...

    def iterate(self, items: AsyncGenerator[T, None], /) -> Iterator[T]: ...


class QueueHandle:
    """`darkq.QueueHandle`, blocking. The methods take and raise the same."""

    def __init__(self, portal: _Portal, queue: asynchronous.QueueHandle) -> None:
        self.priority = queue.priority
        self._portal = portal
        self._queue = queue

    def status(self) -> QueueStatus:
        """Return how the queue stands; see `darkq.QueueHandle.status`."""
        return self._portal.call(self._queue.status())

    def pause(self, *, why: str = "", by: str | None = None) -> QueueStatus:
        """Let no worker begin its jobs; see `darkq.QueueHandle.pause`."""
        return self._portal.call(self._queue.pause(why=why, by=by))

    def resume(self) -> QueueStatus:
        """Let workers begin its jobs again; see `darkq.QueueHandle.resume`."""
        return self._portal.call(self._queue.resume())

    def close(self, *, why: str = "", by: str | None = None) -> QueueStatus:
        """Refuse new jobs; see `darkq.QueueHandle.close`."""
        return self._portal.call(self._queue.close(why=why, by=by))

    def open(self) -> QueueStatus:
        """Take new jobs again; see `darkq.QueueHandle.open`."""
        return self._portal.call(self._queue.open())

    def draining(self) -> Iterator[QueueStatus]:
        """Yield how it stands until it is empty; see `darkq.QueueHandle.draining`."""
        return self._portal.iterate(self._queue.draining())

    def move_to(self, target: QueueHandle, *, limit: int | None = None) -> Iterator[Backlog]:
        """Move waiting jobs to the other queue; see `darkq.QueueHandle.move_to`.

        The target is of the same client: moving to another Redis is for `darkq queues move`.
        """
        return self._portal.iterate(self._queue.move_to(target._queue, limit=limit))

    def purge(self, *, dry_run: bool = False) -> Iterator[Purged]:
        """Cancel the jobs that wait; see `darkq.QueueHandle.purge`."""
        return self._portal.iterate(self._queue.purge(dry_run=dry_run))

    def __repr__(self) -> str:
        return f"QueueHandle({self.priority!r})"
