"""`GET /board/overview`: snapshots as Server-Sent Events, one per second.

One poller reads for all pages of the process, each tenant's jobs once, and only while somebody
watches. A page that takes nothing misses snapshots; it is sent the latest one when it takes more.
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
from darkq_gateway.board.pace import Pace, Paces
from darkq_gateway.board.snapshot import (
    BatchRow,
    JobRow,
    Snapshot,
    View,
    read_batches,
    read_jobs,
    view_of,
    with_paces,
)
from darkq_gateway.http.context import SETTINGS, STREAMS, caller_of

logger = logging.getLogger("darkq.gateway")

INTERVAL_S = 1.0

T = TypeVar("T")


def routes() -> list[web.RouteDef]:
    return [web.get("/board/overview", overview, allow_head=False)]


async def overview(request: web.Request) -> web.StreamResponse:
    """Send what the caller may see, as it changes."""
    view = view_of(caller_of(request), request.app[SETTINGS])
    async with (
        request.app[STREAMS].open(request) as stream,
        aclosing(request.app[OVERVIEWS].watch(view)) as snapshots,
    ):
        async for snapshot in snapshots:
            await stream.send(b"data: %b\n\n" % snapshot)
    return stream.response


class Overviews:
    """The poller, and who watches what."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._watched: dict[View, _Board] = {}
        self._somebody = asyncio.Event()
        self.readings = 0

    async def watch(self, view: View) -> AsyncGenerator[bytes, None]:
        """Yield a view's snapshots as JSON, the latest one first if there is one.

        Raises what ended the reading, `RedisUnavailable` above all.
        """
        board = self._watched.setdefault(view, _Board())
        board.watchers += 1
        self._somebody.set()
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
        """Read while the app runs. For `cleanup_ctx`."""
        polling = asyncio.create_task(self._poll(), name="darkq-board-poller")
        yield
        polling.cancel()
        await asyncio.wait([polling])

    async def _poll(self) -> None:
        paces = Paces(self._client)
        try:
            while True:
                if not self._watched:
                    await paces.follow(set())
                await self._somebody.wait()
                self._somebody.clear()
                try:
                    await self._read_while_watched(paces)
                except Exception as error:  # of a reading; the next page that comes has another
                    logger.exception("the board could not be read")
                    self._fail(list(self._watched), error)
        finally:
            await paces.follow(set())

    async def _read_while_watched(self, paces: Paces) -> None:
        while self._watched:
            self.readings += 1
            seeing = [view for view in self._watched if view.sees_system]
            system = await self._try(seeing, self._client.fleet) if seeing else None
            rows: dict[str | None, _Rows] = {}
            for tenant in {view.tenant for view in self._watched}:
                views = [view for view in self._watched if view.tenant == tenant]
                if (read := await self._try(views, partial(self._read_rows, tenant))) is not None:
                    rows[tenant] = read
            jobs = [job for read in rows.values() for job in read.jobs]
            await paces.follow({job.job_id for job in jobs if job.unfinished})
            self._tell(rows, paces.sample(), system)
            await asyncio.sleep(INTERVAL_S)

    async def _try(self, views: Collection[View], read: Callable[[], Awaitable[T]]) -> T | None:
        """Return what was read, or None: then these views have ended."""
        try:
            return await read()
        except Exception as error:  # each stream tells it to its reader, or logs it as a bug
            self._fail(list(views), error)
            return None

    def _fail(self, views: Collection[View], error: Exception) -> None:
        for view in views:
            if (board := self._watched.pop(view, None)) is not None:  # it may have been left
                board.fail(error)

    async def _read_rows(self, tenant: str | None) -> _Rows:
        jobs = await read_jobs(self._client, tenant)
        return _Rows(jobs, await read_batches(self._client, tenant))

    def _tell(
        self, rows: Mapping[str | None, _Rows], pace: Mapping[str, Pace], system: Fleet | None
    ) -> None:
        now_ms = int(time.time() * 1000)
        for view, board in self._watched.items():
            if (read := rows.get(view.tenant)) is None or (view.sees_system and system is None):
                continue  # it came in the meantime
            snapshot = Snapshot(
                now_ms=now_ms,
                jobs=with_paces(read.jobs, pace),
                batches=read.batches,
                system=system if view.sees_system else None,
            )
            board.tell(msgspec.json.encode(snapshot))


class _Rows(NamedTuple):
    """What is a tenant's own."""

    jobs: list[JobRow]
    batches: list[BatchRow]


class _Board:
    """One view's latest snapshot, and what its watchers wait for."""

    def __init__(self) -> None:
        self.watchers = 0
        self._latest: bytes | None = None
        self._next = _turn()

    async def after(self, seen: bytes | None) -> bytes:
        """Wait for a snapshot that is not the one seen. Raises what ended the reading."""
        while self._latest is None or self._latest is seen:
            await asyncio.shield(self._next)
        return self._latest

    def tell(self, snapshot: bytes) -> None:
        """Give all watchers a snapshot."""
        self._latest = snapshot
        turn, self._next = self._next, _turn()
        turn.set_result(None)

    def fail(self, error: Exception) -> None:
        """End all watchers."""
        self._next.set_exception(error)
        self._next.exception()  # who is not waiting now asks later, or never


def _turn() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


OVERVIEWS = web.AppKey("overviews", Overviews)
