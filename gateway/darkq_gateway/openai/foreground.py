"""Jobs whose clients wait for the answer: created, found by a retry, cancelled without clients.

OpenAI's SDK retries a request that got no response. It sends no idempotency key, but the number of
the try (`RETRY_COUNT`). So the first try creates a job, and later tries find it, at any gateway.

    client disconnects ── grace ─┬─ no client holds the job: cancel it and its upstream call
                                 └─ a retry holds the job: it continues

The grace is `DARKQ_GATEWAY_CANCEL_GRACE_S`, plus the pause of the SDK before its next try if the
client counts its tries. Each client holds its job by a lease in Redis (`Reattachments`), which this
process renews. A job can have several clients: two requests with the same idempotency key, or one
that retries while its first connection still seems alive. The last one to leave cancels the job.

Proxies close a silent connection after about a minute. The job would be cancelled, and its tokens
wasted. So after `DARKQ_GATEWAY_HEARTBEAT_S` a response without streaming begins, and a blank is
sent at that interval: JSON parsers skip white space before the document. From then on the status is
200. For a later error there are two cases:

- A client that sends `RETRY_COUNT`, as OpenAI's SDKs do, retries by itself: its connection is
  aborted. The retry finds the same job and gets the status of the error.
- Any other client gets the body of the error, `{"error": …}`, with status 200.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from darkq import DarkqError, Job, JobHandle, JobNotFound
from darkq.serving.request_dedup import Held, request_digest
from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.background import run_beside
from darkq_gateway.http.bodies import respond_json
from darkq_gateway.http.context import CLIENT, SETTINGS, get_caller, get_own_job
from darkq_gateway.http.errors import handle_error, make_body
from darkq_gateway.http.idempotency import IDEMPOTENCY_KEY, RETRY_COUNT
from darkq_gateway.http.sse_response import STREAMS

logger = logging.getLogger("darkq.gateway")

T = TypeVar("T")

_RENEWALS_PER_LEASE = 3
_SDK_FIRST_PAUSE_S, _SDK_LONGEST_PAUSE_S = 0.5, 8.0
_SDK_LATENCY_S = 1.0  # until the next try has arrived here
_MAX_DOUBLINGS = 10  # the pause has reached its maximum long before

Holding: TypeAlias = asyncio.Task[tuple[JobHandle, Held | None]]


class Waiters:
    """The clients of this process that wait for a job, or have left and may return."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: set[Holding] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task that outlives its request, and is cancelled when the application ends."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @contextmanager
    def renew_for(self, holding: Holding) -> Iterator[None]:
        """Renew the lease of a client for the length of the block."""
        self._waiting.add(holding)
        try:
            yield
        finally:
            self._waiting.discard(holding)

    def cancel_after(self, holding: Holding, grace_s: float) -> None:
        """Cancel a job after the grace, unless another client holds it then."""
        # During shutdown it is this process that leaves. Its clients retry at another gateway.
        if not self._app[STREAMS].draining:
            self.spawn(self._cancel_after(holding, grace_s), "darkq-gateway-grace")

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Renew leases while the application runs, then cancel all tasks. For `cleanup_ctx`."""
        async with run_beside(self._renew(), name="darkq-gateway-leases"):
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
                if not holding.done() or holding.cancelled() or holding.exception() is not None:
                    continue
                _, held = holding.result()
                if held is not None:
                    with suppress(DarkqError):  # the next round is still within the lease
                        await self._app[CLIENT].reattachments.renew(held)

    async def _cancel_after(self, holding: Holding, grace_s: float) -> None:
        client = self._app[CLIENT]
        try:
            _, held = await holding
            if held is None:
                return
            await client.reattachments.leave(held, grace_s)
            await asyncio.sleep(grace_s)
            if await client.reattachments.is_last(held):
                await client.job(held.job_id).cancel()
        except DarkqError as error:  # the job then runs until its own deadline
            kind = type(error).__name__
            logger.warning(LogEvent("cancel of abandoned job failed", error=kind))


WAITERS = web.AppKey("waiters", Waiters)


async def enqueue(request: web.Request, job: Job, body: bytes) -> JobHandle:
    """Enqueue a job, or return the one that an earlier try of the request has enqueued.

    Raises what `Client.enqueue_job` raises.
    """
    client, job = request.app[CLIENT], _apply_settings(request, job)
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None and request.headers.get(RETRY_COUNT, "0") != "0":
        made = await client.reattachments.find(_digest(request, body))
        if made is not None and (found := await _find_usable(request, made)) is not None:
            return found
    return await client.enqueue_job(job, idempotency_key=key)


def _apply_settings(request: web.Request, job: Job) -> Job:
    if not request.app[SETTINGS].gateway_ignore_unsupported:
        return job
    return msgspec.structs.replace(job, ignore_unsupported=True)


async def _find_usable(request: web.Request, job_id: str) -> JobHandle | None:
    """Return a job unless it is gone, or was cancelled because no client held it."""
    with suppress(JobNotFound):
        owned = await get_own_job(request, job_id)
        if owned.status.state not in ("cancelling", "cancelled"):
            return owned.handle
    return None


@asynccontextmanager
async def hold_job(request: web.Request, job: Job, body: bytes) -> AsyncIterator[JobHandle]:
    """Do as `enqueue`, and hold the job for the length of the block.

    If the block ends because the client disconnects, the job is cancelled after the grace.
    """
    waiters, digest = request.app[WAITERS], _digest(request, body)
    # The client may disconnect while the job is being stored. Were this cancelled then, the job
    # would run without a client to its end. So it runs in a task of its own, and `cancel_after`
    # awaits it.
    holding = waiters.spawn(_enqueue_and_hold(request, job, body, digest), "darkq-gateway-holding")
    try:
        with waiters.renew_for(holding):
            handle, _ = await asyncio.shield(holding)
            yield handle
    except (asyncio.CancelledError, ConnectionError):
        waiters.cancel_after(holding, _grace_s(request))
        raise


async def _enqueue_and_hold(
    request: web.Request, job: Job, body: bytes, digest: str
) -> tuple[JobHandle, Held | None]:
    client = request.app[CLIENT]
    handle = await enqueue(request, job, body)
    held = await client.reattachments.hold(digest, handle.id)
    if held is None and IDEMPOTENCY_KEY not in request.headers:
        # The first job is being cancelled: its last client has left.
        handle = await client.enqueue_job(_apply_settings(request, job))
        held = await client.reattachments.hold(digest, handle.id)
    return handle, held


def _grace_s(request: web.Request) -> float:
    """Return how long a client that disconnects now may take to return.

    OpenAI's SDK waits before its next try: 0.5 s, doubled for each try, 8 s at most.
    """
    grace_s = request.app[SETTINGS].gateway_cancel_grace_s
    tries = request.headers.get(RETRY_COUNT, "")
    if not (tries.isascii() and tries.isdigit()):
        return grace_s
    pause_s = _SDK_FIRST_PAUSE_S * (1 << min(int(tries[:4]), _MAX_DOUBLINGS))
    return grace_s + min(_SDK_LONGEST_PAUSE_S, pause_s) + _SDK_LATENCY_S


def _digest(request: web.Request, body: bytes) -> str:
    return request_digest(get_caller(request).tenant, request.path, body)


async def send_when_done(
    request: web.Request, work: Coroutine[Any, Any, dict[str, Any]]
) -> web.StreamResponse:
    """Return a response with the result of `work` as JSON.

    Raises what `work` raises if the response has not begun, and `ConnectionResetError` if the
    client has disconnected or must retry. Cancellation cancels `work`, too.
    """
    async with run_beside(work, name="darkq-gateway-response") as task:
        await asyncio.wait([task], timeout=request.app[SETTINGS].gateway_heartbeat_s)
        if task.done():
            return respond_json(task.result())
        return await _send_blanks_until_done(request, task)


async def _send_blanks_until_done(
    request: web.Request, task: asyncio.Task[dict[str, Any]]
) -> web.StreamResponse:
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    while not task.done():
        await response.write(b" ")
        await asyncio.wait([task], timeout=request.app[SETTINGS].gateway_heartbeat_s)
    try:
        body = task.result()
    except Exception as error:
        body = make_body(request.path, handle_error(error))
        if RETRY_COUNT in request.headers:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client must retry") from None
    await response.write(msgspec.json.encode(body))
    await response.write_eof()
    return response
