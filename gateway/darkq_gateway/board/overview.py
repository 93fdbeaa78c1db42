"""`GET /board/overview`: snapshots as Server-Sent Events, one per second.

One poller reads Redis for all open pages of the process: once per second and tenant, and only while
a page is open. A page that reads slowly misses snapshots: it gets the latest one next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
from aiohttp import web

from darkq import Client, Settings
from darkq.jobs.job_lists import Why
from darkq.sse import frame
from darkq_gateway.board.job_index import (
    GROUPS,
    JobIndex,
    Listing,
    ListQuery,
    read_query,
    read_rows,
)
from darkq_gateway.board.pace import Pace, Paces
from darkq_gateway.board.rows import BatchRow, complete_rows, read_batches
from darkq_gateway.board.snapshot import MAX_JOBS, Snapshot, System, SystemReader, View, make_view
from darkq_gateway.http.background import run_beside
from darkq_gateway.http.context import SETTINGS, get_caller
from darkq_gateway.http.sse_response import STREAMS

logger = logging.getLogger("darkq.gateway")

INTERVAL_S = 1.0

T = TypeVar("T")
routes = web.RouteTableDef()


@routes.get("/board/overview", allow_head=False)
async def stream_overview(request: web.Request) -> web.StreamResponse:
    """Stream snapshots of what the caller may see."""
    page = Page(make_view(get_caller(request), request.app[SETTINGS]), read_query(request))
    async with (
        request.app[STREAMS].open(request) as stream,
        aclosing(request.app[OVERVIEWS].watch(page)) as snapshots,
    ):
        async for snapshot in snapshots:
            await stream.send(frame(snapshot))
    return stream.response


class Page(NamedTuple):
    """What a page watches: what its caller may see, and which jobs it lists."""

    view: View
    query: ListQuery


class Overviews:
    """The poller, and what pages watch."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._shows_prompts = settings.gateway_board_prompts
        self._watched: dict[Page, _Board] = {}
        self._has_watchers = asyncio.Event()
        self._system = SystemReader(client, settings)
        self._latest = _NOTHING
        self.readings = 0

    async def watch(self, page: Page) -> AsyncGenerator[bytes, None]:
        """Yield snapshots as JSON, beginning with the latest one if there is one.

        Raises the error that ended the polling, usually `RedisUnavailable`.
        """
        board = self._watched.get(page)
        if board is None:
            board = self._watched[page] = _Board()
            self._publish(page, board)  # a changed filter must not wait for the next reading
        board.watchers += 1
        self._has_watchers.set()
        try:
            seen = None
            while True:
                seen = await board.after(seen)
                yield seen
        finally:
            board.watchers -= 1
            if not board.watchers and self._watched.get(page) is board:
                del self._watched[page]

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
                    self._latest = _NOTHING  # a page that is opened later must not show it as new
                await self._has_watchers.wait()
                self._has_watchers.clear()
                try:
                    await self._publish_while_watched(paces)
                except Exception as error:  # ends this round; the next page starts another
                    logger.exception("board update failed")
                    self._latest = _NOTHING
                    self._fail(list(self._watched), error)
        finally:
            await paces.follow(set())

    async def _publish_while_watched(self, paces: Paces) -> None:
        while self._watched:
            self.readings += 1
            await self._read()
            shown = [self._list(page) for page in self._watched]
            jobs = {job.job_id: job for listing in shown if listing for job in listing.jobs}
            await paces.follow({job.job_id for job in jobs.values() if job.unfinished})
            explain = partial(self._client.explain, list(jobs.values()))
            explained = await self._read_or_fail(list(self._watched), explain)
            reasons = {job.job_id: job.why for job in explained or () if job.why is not None}
            self._latest = self._latest._replace(paces=paces.sample(), reasons=reasons)
            for page, board in list(self._watched.items()):
                self._publish(page, board)
            await asyncio.sleep(INTERVAL_S)

    async def _read(self) -> None:
        operators = [page for page in self._watched if page.view.sees_system]
        system = await self._read_or_fail(operators, self._system.read) if operators else None
        tenants: dict[str | None, _OfTenant] = {}
        for tenant in {page.view.tenant for page in self._watched}:
            pages = [page for page in self._watched if page.view.tenant == tenant]
            batches = {page.query for page in pages if page.query.batch}
            read = await self._read_or_fail(pages, partial(self._read_tenant, tenant, batches))
            if read is not None:
                tenants[tenant] = read
        self._latest = _Latest(tenants, self._latest.paces, self._latest.reasons, system)

    async def _read_or_fail(
        self, pages: Collection[Page], read: Callable[[], Awaitable[T]]
    ) -> T | None:
        """Return what `read` returns; if it fails, end these pages and return None."""
        try:
            return await read()
        except Exception as error:  # each stream sends it to its reader, or logs it as a bug
            self._fail(list(pages), error)
            return None

    def _fail(self, pages: Collection[Page], error: Exception) -> None:
        for page in pages:
            board = self._watched.pop(page, None)
            if board is not None:  # its last watcher may have left
                board.fail(error)

    async def _read_tenant(self, tenant: str | None, queries: Collection[ListQuery]) -> _OfTenant:
        known = self._latest.tenants.get(tenant)
        new = JobIndex(self._client, tenant, shows_prompts=self._shows_prompts)
        index = known.jobs if known else new
        await index.refresh()
        batches = await read_batches(self._client, tenant)
        own = {batch.batch_id for batch in batches}
        lines = {
            query: await self._read_lines(tenant, query) if query.batch in own else _NO_LINES
            for query in queries
        }
        return _OfTenant(index, batches, lines)

    async def _read_lines(self, tenant: str | None, query: ListQuery) -> Listing:
        page = await self._client.job_lists.lines(query.batch, query.start, MAX_JOBS)
        numbers = {job_id: number for number, job_id in page.lines}
        rows = await read_rows(
            self._client, tenant, list(numbers), {}, shows_prompts=self._shows_prompts
        )
        jobs = [msgspec.structs.replace(row, line=numbers[row.job_id]) for row in rows]
        jobs.sort(key=lambda job: (_LINES_FIRST.index(GROUPS[job.state]), job.line))
        return Listing(jobs=jobs, start=query.start, matched=page.total, total=page.total)

    def _list(self, page: Page) -> Listing | None:
        """Return the jobs of a page; None if they have not been read yet."""
        read = self._latest.tenants.get(page.view.tenant)
        if read is None:
            return None
        listing = read.jobs.select(page.query, MAX_JOBS)
        if not page.query.batch:
            return listing
        if (lines := read.lines.get(page.query)) is None:
            return None
        return msgspec.structs.replace(lines, counts=listing.counts, models=listing.models)

    def _publish(self, page: Page, board: _Board) -> None:
        """Send the latest reading to a page, unless it was opened after that."""
        read, system = self._latest.tenants.get(page.view.tenant), self._latest.system
        listing = self._list(page)
        if read is None or listing is None or (page.view.sees_system and system is None):
            return
        jobs = complete_rows(listing.jobs, self._latest.paces, self._latest.reasons)
        snapshot = Snapshot(
            now_ms=int(time.time() * 1000),
            shows_prompts=self._shows_prompts,
            listing=msgspec.structs.replace(listing, jobs=jobs),
            batches=read.batches,
            system=system if page.view.sees_system else None,
        )
        board.publish(msgspec.json.encode(snapshot))


_LINES_FIRST = ("failed", "running", "waiting", "cancelled", "completed")
_NO_LINES = Listing(jobs=[], start=0, matched=0, total=0)


class _OfTenant(NamedTuple):
    """What was read of one tenant: its jobs, its batches, and lines of those that are open."""

    jobs: JobIndex
    batches: list[BatchRow]
    lines: Mapping[ListQuery, Listing]


class _Latest(NamedTuple):
    """The latest reading."""

    tenants: Mapping[str | None, _OfTenant]
    paces: Mapping[str, Pace]
    reasons: Mapping[str, Why]
    system: System | None


_NOTHING = _Latest({}, {}, {}, None)


class _Board:
    """The latest snapshot of one page, and a future for the next one."""

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
