"""The same client without `await`, for Flask, Django and scripts.

    from darkq.sync import Client

    with Client() as client:
        job = client.enqueue("Write a haiku about queues.")
        for piece in job.text():
            print(piece, end="", flush=True)

Each client has a background thread with an event loop; threads may share a client. After a fork
(gunicorn, multiprocessing) the child starts its own thread and connections. It keeps the inherited
ones and never uses them: the garbage collection of a connection would unregister its socket from
the parent's selector, which both processes share.

`Client.batch` returns a batch without `await`, `Client.queue` a queue.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from darkq import client as asynchronous
from darkq.batches import batch as async_batch
from darkq.batches.feed import Columns, Row
from darkq.batches.lines import ForAllLines
from darkq.batches.results import Finished
from darkq.jobs.handle import JobHandle as AsyncJobHandle
from darkq.operate import queue as async_queue
from darkq.operate.queue import Backlog
from darkq.protocol.job import Job, JobArguments, Priority
from darkq.protocol.output import Output
from darkq.protocol.prompt import Prompt
from darkq.settings.settings import Settings

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")

_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_portals: weakref.WeakSet[_Portal] = weakref.WeakSet()
_inherited: list[_Portal] = []  # of the parent process: referenced, so never collected


class _Blocking(Generic[A]):
    """The blocking twin of an object with `await`."""

    def _reach(self) -> tuple[_Portal, A]:
        """Return the thread that runs the calls, and the object whose methods it calls."""
        raise NotImplementedError


def _calls(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Blocking[A], P], T]:
    """Return the blocking twin of a method: it waits for the reply."""

    @wraps(method)
    def call(self: _Blocking[A], /, *args: P.args, **options: P.kwargs) -> T:
        portal, twin = self._reach()
        return portal.call(method(twin, *args, **options))

    return call


def _iterates(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[_Blocking[A], P], Iterator[T]]:
    """Return the blocking twin of a method that yields items."""

    @wraps(method)
    def iterate(self: _Blocking[A], /, *args: P.args, **options: P.kwargs) -> Iterator[T]:
        portal, twin = self._reach()
        return portal.iterate(method(twin, *args, **options))

    return iterate


class Client(_Blocking[asynchronous.Client]):
    """`darkq.Client`, blocking. The methods take and raise the same."""

    def __init__(self, redis_url: str | None = None, *, settings: Settings | None = None) -> None:
        self._redis_url = redis_url
        self._settings = settings or Settings.load()
        self._lock = threading.Lock()
        self._portal: _Portal | None = None
        _clients.add(self)

    def enqueue(
        self,
        prompt: Prompt,
        *,
        idempotency_key: str | None = None,
        output: Output | None = None,
        **arguments: Unpack[JobArguments],
    ) -> JobHandle:
        """Store a job and return its handle; see `darkq.Client.enqueue`."""
        portal = self._open()
        job = portal.call(
            portal.client.enqueue(
                prompt, idempotency_key=idempotency_key, output=output, **arguments
            )
        )
        return JobHandle(self, job.id, duplicate=job.duplicate, output=output)

    def enqueue_many(self, jobs: Iterable[Prompt | Job]) -> list[JobHandle]:
        """Store many jobs; see `darkq.Client.enqueue_many`."""
        portal = self._open()
        return [JobHandle(self, job.id) for job in portal.call(portal.client.enqueue_many(jobs))]

    def job(self, job_id: str, *, output: Output | None = None) -> JobHandle:
        """Return the handle of a job by its id; see `darkq.Client.job`."""
        return JobHandle(self, self._open().client.job(job_id).id, output=output)

    failed = _iterates(asynchronous.Client.failed)
    upstreams = _calls(asynchronous.Client.upstreams)
    batches = _iterates(asynchronous.Client.batches)
    queues = _calls(asynchronous.Client.queues)

    def batch(
        self,
        batch_id: str | None = None,
        *,
        name: str | None = None,
        window: int = 2000,
        metadata: Mapping[str, str] | None = None,
        lines: int | None = None,
    ) -> Batch:
        """Return the handle of a new or existing batch; see `darkq.Client.batch`."""
        portal = self._open()
        batch = portal.client.batch(
            batch_id, name=name, window=window, metadata=metadata, lines=lines
        )
        return Batch(portal, batch)

    def queue(self, priority: Priority) -> QueueHandle:
        """Return the handle of a queue; see `darkq.Client.queue`."""
        portal = self._open()
        return QueueHandle(portal, portal.client.queue(priority))

    def close(self) -> None:
        """Send waiting jobs, close all connections and end the thread.

        Blocked calls of other threads raise `concurrent.futures.CancelledError`.
        """
        with self._lock:
            portal, self._portal = self._portal, None
        if portal is not None:
            portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reset(self) -> None:
        """Reset after a fork: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self._portal = None

    def _open(self) -> _Portal:
        with self._lock:
            if self._portal is None:
                self._portal = _Portal(self._redis_url, self._settings)
            return self._portal

    def _reach(self) -> tuple[_Portal, asynchronous.Client]:
        portal = self._open()
        return portal, portal.client


class JobHandle(_Blocking[AsyncJobHandle]):
    """`darkq.JobHandle`, blocking. The methods take and raise the same."""

    def __init__(
        self,
        client: Client,
        job_id: str,
        *,
        duplicate: bool = False,
        output: Output | None = None,
    ) -> None:
        self._client = client
        self._output = output
        self.id = job_id
        self.duplicate = duplicate

    events = _iterates(AsyncJobHandle.events)
    latest_event = _calls(AsyncJobHandle.latest_event)
    text = _iterates(AsyncJobHandle.text)
    parts = _iterates(AsyncJobHandle.parts)
    result = _calls(AsyncJobHandle.result)
    status = _calls(AsyncJobHandle.status)
    cancel = _calls(AsyncJobHandle.cancel)
    retry = _calls(AsyncJobHandle.retry)
    ticket = _calls(AsyncJobHandle.ticket)

    def _reach(self) -> tuple[_Portal, AsyncJobHandle]:
        portal = self._client._open()
        return portal, portal.client.job(self.id, output=self._output)

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"


class _Portal:
    """A thread with an event loop, and the client that belongs to it."""

    def __init__(self, redis_url: str | None, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        # Reentrant: the garbage collector may close an iterator during a call, in the same thread.
        self._lock = threading.RLock()
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="darkq-sync", daemon=True
        )
        self._thread.start()
        _portals.add(self)
        try:
            self.client = self.call(_make_client(redis_url, settings))
        except BaseException:
            self._stop()
            raise

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait. An interrupt cancels the coroutine.

        Raises `RuntimeError` once the client is closed.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise RuntimeError("this client is closed, or belongs to the parent process")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield the items of a generator. Closing the iterator closes the generator."""
        try:
            while True:
                try:
                    item = self.call(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            # If the garbage collector runs this in the loop's thread, waiting would deadlock.
            # The loop then closes the generator by itself.
            if threading.current_thread() is not self._thread:
                with suppress(RuntimeError):  # the client was closed first
                    self.call(_close(items))

    def close(self) -> None:
        closing = self._end()
        with self._lock:
            self._closed = True
            future = asyncio.run_coroutine_threadsafe(closing, self._loop)
        try:
            future.result()
        finally:
            self._stop()

    async def _end(self) -> None:
        """Close the client, and cancel the calls that still wait."""
        await self.client.aclose()
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self.client.aclose()  # connections that the cancelled calls have opened

    def refuse(self) -> None:
        """Reject calls in a child process: the thread that runs them exists only in the parent."""
        self._lock = threading.RLock()
        self._closed = True

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _make_client(redis_url: str | None, settings: Settings) -> asynchronous.Client:
    return asynchronous.Client(redis_url, settings=settings)


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


async def _close(items: AsyncGenerator[T, None]) -> None:
    await items.aclose()


def _after_fork_in_child() -> None:
    for portal in list(_portals):
        portal.refuse()
        _inherited.append(portal)
    _portals.clear()
    for client in list(_clients):
        client._reset()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Batch(_Blocking[async_batch.Batch]):
    """`darkq.Batch`, blocking. It belongs to the process that made it."""

    def __init__(self, portal: _Portal, batch: async_batch.Batch) -> None:
        self.id = batch.id
        self._portal = portal
        self._batch = batch

    def run(
        self,
        rows: Iterable[Row],
        *,
        columns: Columns = async_batch.COLUMNS,
        common: ForAllLines = async_batch.FOR_ALL,
        after: str | None = None,
    ) -> Iterator[Finished]:
        """Add rows, and yield the ended lines; see `darkq.Batch.run`.

        The rows are read in the client's thread.
        """
        return self._portal.iterate(self._run(rows, columns, common, after))

    events = _iterates(async_batch.Batch.events)
    tail = _iterates(async_batch.Batch.tail)
    status = _calls(async_batch.Batch.status)
    cancel = _calls(async_batch.Batch.cancel)
    ticket = _calls(async_batch.Batch.ticket)

    def _reach(self) -> tuple[_Portal, async_batch.Batch]:
        return self._portal, self._batch

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


class QueueHandle(_Blocking[async_queue.QueueHandle]):
    """`darkq.QueueHandle`, blocking. The methods take and raise the same."""

    def __init__(self, portal: _Portal, queue: async_queue.QueueHandle) -> None:
        self.priority = queue.priority
        self._portal = portal
        self._queue = queue

    status = _calls(async_queue.QueueHandle.status)
    pause = _calls(async_queue.QueueHandle.pause)
    resume = _calls(async_queue.QueueHandle.resume)
    close = _calls(async_queue.QueueHandle.close)
    open = _calls(async_queue.QueueHandle.open)
    draining = _iterates(async_queue.QueueHandle.draining)
    purge = _iterates(async_queue.QueueHandle.purge)

    def move_to(self, target: QueueHandle, *, limit: int | None = None) -> Iterator[Backlog]:
        """Move waiting jobs to the other queue; see `darkq.QueueHandle.move_to`.

        The target must be of the same client. `darkq queues move` moves jobs to another Redis.
        """
        return self._portal.iterate(self._queue.move_to(target._queue, limit=limit))

    def _reach(self) -> tuple[_Portal, async_queue.QueueHandle]:
        return self._portal, self._queue

    def __repr__(self) -> str:
        return f"QueueHandle({self.priority!r})"
