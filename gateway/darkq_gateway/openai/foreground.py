"""Jobs that somebody waits for: a request makes one, its repetition finds it, leaving ends it.

OpenAI's SDK repeats a request that got no answer, without a key, but counts its tries. So the
first try makes a job and later ones come back for it, to whichever gateway. A client that leaves
gets a moment to come back; then its job is cancelled, up to the upstream.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from aiohttp import web

from darkq import DarkqError, Held, Job, JobHandle, JobNotFound, LogLine
from darkq_gateway.context import CLIENT, SETTINGS, STREAMS, caller_of
from darkq_gateway.errors import ApiError
from darkq_gateway.ownership import owned_job

logger = logging.getLogger("darkq.gateway")

T = TypeVar("T")

RETRY_COUNT = "x-stainless-retry-count"
IDEMPOTENCY_KEY = "Idempotency-Key"


class Departures:
    """Clients that have left, and may come back for a moment."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[Any]] = set()

    def own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Do something that goes on when the client leaves, and ends with the app at the latest."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def watch(self, digest: str, holding: asyncio.Task[tuple[JobHandle, Held]]) -> None:
        """Cancel a job soon, unless somebody comes back for it."""
        if not self._app[STREAMS].draining:  # else we have left: the client finds it elsewhere
            self.own(self._watch(digest, holding), "darkq-gateway-departure")

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """End what is left when the app ends. For `cleanup_ctx`."""
        yield
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _watch(self, digest: str, holding: asyncio.Task[tuple[JobHandle, Held]]) -> None:
        client = self._app[CLIENT]
        try:
            _, held = await holding
            await asyncio.sleep(self._app[SETTINGS].gateway_cancel_grace_s)
            if not await client.reattachments.is_taken_over(digest, held):
                await client.job(held.job_id).cancel()
        except (DarkqError, ApiError) as error:  # the job's own deadline ends it
            kind = type(error).__name__
            logger.warning(LogLine("a job whose client left was not cancelled", error=kind))


DEPARTURES = web.AppKey("departures", Departures)


async def enqueue(request: web.Request, job: Job, body: bytes) -> JobHandle:
    """Store a job, or find the one that an earlier try of the same request has made.

    Raises what `Client.enqueue_job` raises.
    """
    client = request.app[CLIENT]
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None and request.headers.get(RETRY_COUNT, "0") != "0":
        made = await client.reattachments.find(_digest(request, body))
        if made is not None and (found := await _usable(request, made)) is not None:
            return found
    return await client.enqueue_job(job, idempotency_key=key)


async def _usable(request: web.Request, job_id: str) -> JobHandle | None:
    """Return a job that is there, and was not cancelled for want of somebody who waits."""
    with suppress(JobNotFound):
        owned = await owned_job(request, job_id)
        if owned.status.state not in ("cancelling", "cancelled"):
            return owned.handle
    return None


@asynccontextmanager
async def awaited(request: web.Request, job: Job, body: bytes) -> AsyncIterator[JobHandle]:
    """Do as `enqueue`, and wait inside the block; cancel the job when its client stays away."""
    departures, digest = request.app[DEPARTURES], _digest(request, body)
    # Clients leave in the middle of this too, and a job that nobody knows would run to its end.
    holding = departures.own(_hold(request, job, body, digest), "darkq-gateway-holding")
    try:
        handle, _ = await asyncio.shield(holding)
        yield handle
    except (asyncio.CancelledError, ConnectionError):
        departures.watch(digest, holding)
        raise


async def _hold(request: web.Request, job: Job, body: bytes, digest: str) -> tuple[JobHandle, Held]:
    handle = await enqueue(request, job, body)
    return handle, await request.app[CLIENT].reattachments.hold(digest, handle.id)


def _digest(request: web.Request, body: bytes) -> str:
    """What stands for a request: the same tenant, the same path, the same body."""
    tenant = caller_of(request).tenant
    parts = ((tenant or "").encode(), request.path.encode(), body)
    digest = hashlib.sha256(b"open" if tenant is None else b"tenant")
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
