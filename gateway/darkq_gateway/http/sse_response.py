"""Server-sent events as a response: one reader's stream, and all streams of the process.

    async with request.app[STREAMS].open(request) as stream:
        async for batch in job.event_batches(after):
            await stream.send(frames(batch), batch.came_s)
    return stream.response

The response begins with the first data, or after `BEGIN_S` without any. What goes wrong before
that is answered as any other error, and later by an event that holds one: `data: {"error": …}`.
When nothing is sent at all the answer is 204, which tells an EventSource not to come again.

Nothing is buffered here. While a socket takes no more, `send` waits, and the tail behind it is
not read: it forgets its messages and goes on from the event log later. A socket that takes
nothing is closed by its `Connection`.

When the process is told to stop, streams end as if complete, between two events, and readers come
again with the id of their last event.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
from aiohttp import web

from darkq import Settings
from darkq.telemetry.metrics import Tally
from darkq_gateway.http.counting import RELAY
from darkq_gateway.http.errors import (
    ApiError,
    error_of,
    has_begun,
    internal_error,
    log_bug,
    shape_of,
)

BEGIN_S = 0.2
PIECE_BYTES = 256 << 10
PING = b": ping\n"  # without a blank line: OpenAI's Python client would take that for an event
RETRY_MIN_MS, RETRY_MAX_MS = 500, 2000


class EventStream:
    """One response. Made by `Streams.open`."""

    def __init__(self, request: web.Request, settings: Settings, tally: Tally) -> None:
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        self._request = request
        self._tally = tally
        self._heartbeat_s = settings.gateway_heartbeat_s
        self._one_at_a_time = asyncio.Lock()
        self._last_sent_s = 0.0
        # Told when to come back before anything is lost, and not all at once. A `retry` without
        # data would be an event without data, so the first data brings it.
        self._head = b"retry: %d\n" % random.randint(RETRY_MIN_MS, RETRY_MAX_MS)
        self._held = b""

    @property
    def begun(self) -> bool:
        """Whether the response has begun, so that its status cannot be changed any more."""
        return has_begun(self._request)

    @property
    def response(self) -> web.StreamResponse:
        """What a handler returns."""
        return self._response if self.begun else web.Response(status=204)

    def hold(self, frames: bytes) -> None:
        """Send whole events as soon as the response begins, but do not begin it for them.

        An error that is raised before is answered with its own status.
        """
        self._held += frames

    async def send(self, frames: bytes, came_s: float | None = None) -> None:
        """Send whole events, and wait until the socket has room again.

        `came_s` is when the first of them came, if they came live (`EventBatch`).
        Raises `ConnectionResetError` when the reader has gone or takes nothing any more.
        """
        frames, self._held = self._held + frames, b""
        if frames:
            head, self._head = self._head, b""
            await self._write(head + frames)
            if came_s is not None:
                self._tally.observe(RELAY, time.perf_counter() - came_s)

    async def begin(self) -> None:
        """Begin the response, though there is no data yet but what was held."""
        if self._held:
            await self.send(b"")
        else:
            await self._write(b"")

    async def beat(self) -> None:
        """Begin the response in time, and let it never be silent for long."""
        loop = asyncio.get_running_loop()
        with suppress(ConnectionResetError):  # the handler is cancelled when its reader leaves
            await asyncio.sleep(BEGIN_S)
            await self.begin()
            while True:
                await asyncio.sleep(self._last_sent_s + self._heartbeat_s - loop.time())
                if loop.time() - self._last_sent_s >= self._heartbeat_s:
                    await self._write(PING)

    async def fail(self, error: Exception) -> None:
        """Tell the reader of an error, in the shape that errors have at its path."""
        known = error_of(error)
        if known is None:
            log_bug(error)
            known = internal_error()
        body = msgspec.json.encode(shape_of(self._request.path)(known))
        await self.send(b"data: %b\n\n" % body)

    async def _write(self, data: bytes) -> None:
        async with self._one_at_a_time:
            try:
                await self._response.prepare(self._request)
                # Piece by piece, since the transport copies what the socket does not take. Cut off
                # in between, the last event has no blank line, and is none.
                for start in range(0, len(data), PIECE_BYTES):
                    await self._response.write(data[start : start + PIECE_BYTES])
                    await self._request.writer.drain()
            except ConnectionError:  # of whatever kind: a drain does not say which
                raise ConnectionResetError("the reader has gone") from None
            self._last_sent_s = asyncio.get_running_loop().time()


class Streams:
    """All event streams of the process: so many at most, and all ended when it stops."""

    def __init__(self, settings: Settings, tally: Tally) -> None:
        self._tally = tally
        self._settings = settings
        self._scopes: set[asyncio.Timeout] = set()
        self._open = 0
        self.draining = False

    def __len__(self) -> int:
        return self._open

    @asynccontextmanager
    async def open(
        self, request: web.Request, *, resumable: bool = True
    ) -> AsyncIterator[EventStream]:
        """Send events for the length of the block.

        A `resumable` stream may be ended at any event when the process is told to stop; another
        one is let go on for `DARKQ_GATEWAY_DRAIN_S`. Raises `ApiError` when too many are open.
        """
        if self.draining or self._open >= self._settings.gateway_max_readers:
            raise ApiError(503, "too_many_readers", "too many event streams", retry_after_s=2)
        stream = EventStream(request, self._settings, self._tally)
        scope = asyncio.timeout(None)
        self._open += 1
        pulse = asyncio.create_task(stream.beat(), name="darkq-gateway-pulse")
        try:
            async with scope:
                if resumable:
                    self._scopes.add(scope)
                yield stream
        except TimeoutError as error:
            if scope.expired():
                await stream.begin()  # a 204 would tell it not to come again
            else:
                await _report(stream, error)
        except ConnectionResetError:
            if not stream.begun:
                raise
        except Exception as error:
            await _report(stream, error)
        finally:
            self._open -= 1
            self._scopes.discard(scope)
            pulse.cancel()
            await asyncio.wait([pulse])

    def drain(self) -> None:
        """End all streams that can be resumed, and open no more."""
        self.draining = True
        now_s = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now_s)


async def _report(stream: EventStream, error: Exception) -> None:
    """Answer an error as the stream's state allows."""
    if not stream.begun:
        raise error
    with suppress(ConnectionResetError):
        await stream.fail(error)
