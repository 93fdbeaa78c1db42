"""`GET /board/overview`: snapshots as Server-Sent Events, one per second.

One poller reads Redis for all open pages of the process: once per second and tenant, and only while
a page is open. A page that reads slowly misses snapshots: it gets the latest one next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
)
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
from aiohttp import web

from darkq import Client
from darkq.operate.fleet import Fleet
from darkq.sse import frame
from darkq_gateway.board.pace import Pace, Paces
from darkq_gateway.board.snapshot import (
    BatchRow,
    JobRow,
    Snapshot,
    View,
    add_paces,
    make_view,
    read_batches,
    read_jobs,
)
from darkq_gateway.http.background import run_beside
from darkq_gateway.http.context import SETTINGS, get_caller
from darkq_gateway.http.sse_response import STREAMS

logger = logging.getLogger("darkq.gateway")

INTERVAL_S = 1.0

T = TypeVar("T")


def routes() -> list[web.RouteDef]:
    return [web.get("/board/overview", stream_overview, allow_head=False)]


async def stream_overview(request: web.Request) -> web.StreamResponse:
    """Stream snapshots of what the caller may see."""
    view = make_view(get_caller(request), request.app[SETTINGS])
    async with (
        request.app[STREAMS].open(request) as stream,
        aclosing(request.app[OVERVIEWS].watch(view)) as snapshots,
    ):
        async for snapshot in snapshots:
            await stream.send(frame(snapshot))
    return stream.response


class Overviews:
    """The poller, and the views that pages watch."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._watched: dict[View, _Board] = {}
        self._has_watchers = asyncio.Event()
        self.readings = 0

    async def watch(self, view: View) -> AsyncGenerator[bytes, None]:
        """Yield the snapshots of a view as JSON, beginning with the latest one if there is one.

        Raises the error that ended the polling, usually `RedisUnavailable`.
        """
        board = self._watched.setdefault(view, _Board())
        board.watchers += 1
        self._has_watchers.set()
        try:
            seen = None
            while True:
                seen = await board.after(seen)
                yield seen
        finally:
            board.watchers -= 1
            if not board.watchers and self._watched.get(view) is board:
                del self._watched[view]

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Poll while the application runs. For `cleanup_ctx`."""
        async with run_beside(self._poll(), name="darkq-board-poller"):
            yield

    async def _poll(self) -> None:
        paces = Paces(self._client)
        try:
            while True:
                if not self._watched:
                    await paces.follow(set())
                await self._has_watchers.wait()
                self._has_watchers.clear()
                try:
                    await self._publish_while_watched(paces)
                except (
                    Exception
                ) as error:  # ends this round of polling; the next page starts another
                    logger.exception("board update failed")
                    self._fail(list(self._watched), error)
        finally:
            await paces.follow(set())

    async def _publish_while_watched(self, paces: Paces) -> None:
        while self._watched:
            self.readings += 1
            operators = [view for view in self._watched if view.sees_system]
            system = await self._read_or_fail(operators, self._client.fleet) if operators else None
            rows: dict[str | None, _Rows] = {}
            for tenant in {view.tenant for view in self._watched}:
                views = [view for view in self._watched if view.tenant == tenant]
                if (
                    read := await self._read_or_fail(views, partial(self._read_rows, tenant))
                ) is not None:
                    rows[tenant] = read
            jobs = [job for read in rows.values() for job in read.jobs]
            await paces.follow({job.job_id for job in jobs if job.unfinished})
            self._publish(rows, paces.sample(), system)
            await asyncio.sleep(INTERVAL_S)

    async def _read_or_fail(
        self, views: Collection[View], read: Callable[[], Awaitable[T]]
    ) -> T | None:
        """Return what `read` returns; if it fails, end these views and return None."""
        try:
            return await read()
        except Exception as error:  # each stream sends it to its reader, or logs it as a bug
            self._fail(list(views), error)
            return None

    def _fail(self, views: Collection[View], error: Exception) -> None:
        for view in views:
            if (
                board := self._watched.pop(view, None)
            ) is not None:  # None if its last page was closed
                board.fail(error)

    async def _read_rows(self, tenant: str | None) -> _Rows:
        jobs = await read_jobs(self._client, tenant)
        return _Rows(jobs, await read_batches(self._client, tenant))

    def _publish(
        self, rows: Mapping[str | None, _Rows], pace: Mapping[str, Pace], system: Fleet | None
    ) -> None:
        now_ms = int(time.time() * 1000)
        for view, board in self._watched.items():
            if (read := rows.get(view.tenant)) is None or (view.sees_system and system is None):
                continue  # the view was opened after the reading
            snapshot = Snapshot(
                now_ms=now_ms,
                jobs=add_paces(read.jobs, pace),
                batches=read.batches,
                system=system if view.sees_system else None,
            )
            board.publish(msgspec.json.encode(snapshot))


class _Rows(NamedTuple):
    """The rows of one tenant."""

    jobs: list[JobRow]
    batches: list[BatchRow]


class _Board:
    """The latest snapshot of one view, and a future for the next one."""

    def __init__(self) -> None:
        self.watchers = 0
        self._latest: bytes | None = None
        self._next = _make_future()

    async def after(self, seen: bytes | None) -> bytes:
        """Wait for a snapshot other than the one seen. Raises the error that ended the polling."""
        while self._latest is None or self._latest is seen:
            await asyncio.shield(self._next)
        return self._latest

    def publish(self, snapshot: bytes) -> None:
        """Send a snapshot to all watchers."""
        self._latest = snapshot
        published, self._next = self._next, _make_future()
        published.set_result(None)

    def fail(self, error: Exception) -> None:
        """End all watchers with an error."""
        self._next.set_exception(error)
        self._next.exception()  # marks it as retrieved: possibly no watcher waits


def _make_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


OVERVIEWS = web.AppKey("overviews", Overviews)
