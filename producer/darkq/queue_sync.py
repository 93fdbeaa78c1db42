"""A queue without `await`, for scripts: `darkq.sync.Client.queue` makes one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from darkq import queue_handle as asynchronous
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

    def __repr__(self) -> str:
        return f"QueueHandle({self.priority!r})"
