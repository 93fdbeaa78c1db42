"""Jobs that somebody waits for: a request makes one, its repetition finds it, leaving ends it.

OpenAI's SDK repeats a request that got no answer, without a key, but counts its tries. So the
first try makes a job and later ones come back for it, to whichever gateway. A client that leaves
may come back: within `DARKQ_GATEWAY_CANCEL_GRACE_S`, and if it counts its tries, within its pause
before the next one too. A job may have several callers; when the last one has stayed away, it is
cancelled, up to the upstream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeAlias, TypeVar

from aiohttp import web

from darkq import DarkqError, Job, JobHandle, JobNotFound
from darkq.serving.request_dedup import Held, request_digest
from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.context import CLIENT, SETTINGS, STREAMS, caller_of, owned_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.repetitions import IDEMPOTENCY_KEY, RETRY_COUNT

logger = logging.getLogger("darkq.gateway")

T = TypeVar("T")

_RENEWALS_PER_LEASE = 3
_SDK_FIRST_PAUSE_S, _SDK_LONGEST_PAUSE_S = 0.5, 8.0
_SDK_WAY_S = 1.0  # until a next try has reached us
_MOST_TRIES = 10  # the pause grows no more long before

Holding: TypeAlias = asyncio.Task[tuple[JobHandle, Held | None]]


class Departures:
    """Clients that wait for a job, or have left and may come back for a while."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: set[Holding] = set()

    def own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Do something that goes on when the client leaves, and ends with the app at the latest."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @contextmanager
    def waiting(self, holding: Holding) -> Iterator[None]:
        """Inside the block a client waits: its place among the job's callers is renewed."""
        self._waiting.add(holding)
        try:
            yield
        finally:
            self._waiting.discard(holding)

    def watch(self, holding: Holding, grace_s: float) -> None:
        """Cancel a job after the grace, unless a caller waits for it then."""
        if not self._app[STREAMS].draining:  # else we have left: the client finds it elsewhere
            self.own(self._watch(holding, grace_s), "darkq-gateway-departure")

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Renew who waits; end what is left when the app ends. For `cleanup_ctx`."""
        self.own(self._renew(), "darkq-gateway-waiting")
        yield
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _renew(self) -> None:
        pause_s = self._app[CLIENT].reattachments.lease_s / _RENEWALS_PER_LEASE
        while True:
            await asyncio.sleep(pause_s)
            for holding in list(self._waiting):
                if holding.done() and not holding.cancelled() and holding.exception() is None:
                    await self._renew_one(holding.result()[1])

    async def _renew_one(self, held: Held | None) -> None:
        if held is not None:
            with suppress(DarkqError):  # the next round comes within the lease
                await self._app[CLIENT].reattachments.renew(held)

    async def _watch(self, holding: Holding, grace_s: float) -> None:
        client = self._app[CLIENT]
        try:
            _, held = await holding
            if held is None:
                return
            await client.reattachments.leave(held, grace_s)
            await asyncio.sleep(grace_s)
            if await client.reattachments.is_last(held):
                await client.job(held.job_id).cancel()
        except (DarkqError, ApiError) as error:  # the job's own deadline ends it
            kind = type(error).__name__
            logger.warning(LogEvent("a job whose client left was not cancelled", error=kind))


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
    """Do as `enqueue`, and wait inside the block; cancel the job when all its clients stay away."""
    departures, digest = request.app[DEPARTURES], _digest(request, body)
    # Clients leave in the middle of this too, and a job that nobody knows would run to its end.
    holding = departures.own(_hold(request, job, body, digest), "darkq-gateway-holding")
    try:
        with departures.waiting(holding):
            handle, _ = await asyncio.shield(holding)
            yield handle
    except (asyncio.CancelledError, ConnectionError):
        departures.watch(holding, _grace_s(request))
        raise


async def _hold(
    request: web.Request, job: Job, body: bytes, digest: str
) -> tuple[JobHandle, Held | None]:
    client = request.app[CLIENT]
    handle = await enqueue(request, job, body)
    held = await client.reattachments.hold(digest, handle.id)
    if held is None and IDEMPOTENCY_KEY not in request.headers:
        handle = await client.enqueue_job(job)  # that job is being cancelled
        held = await client.reattachments.hold(digest, handle.id)
    return handle, held


def _grace_s(request: web.Request) -> float:
    """For how long a client may come back that leaves now: an SDK that counts waits before it."""
    grace_s = request.app[SETTINGS].gateway_cancel_grace_s
    tries = request.headers.get(RETRY_COUNT, "")
    if not (tries.isascii() and tries.isdigit()):
        return grace_s
    pause_s = _SDK_FIRST_PAUSE_S * (1 << min(int(tries[:4]), _MOST_TRIES))
    return grace_s + min(_SDK_LONGEST_PAUSE_S, pause_s) + _SDK_WAY_S


def _digest(request: web.Request, body: bytes) -> str:
    """What stands for a request: the same tenant, the same path, the same body."""
    return request_digest(caller_of(request).tenant, request.path, body)
