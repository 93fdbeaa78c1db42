"""Server-Sent Events as a response: the stream of one reader, and all streams of the process.

    async with request.app[STREAMS].open(request) as stream:
        async for batch in job.event_batches(after):
            await stream.send(frames(batch), batch.came_s)
    return stream.response

The response begins with the first data, or after `BEGIN_S` without data. An error before that gets
an error response, a later one an event: `data: {"error": …}`. A stream without any event is a 204,
after which an EventSource does not reconnect.

Nothing is buffered here. While the socket is full, `send` waits, and the tail behind it is not
read: its mailbox overflows, and it continues from the event log later. `Connection` closes a
connection whose client does not read.

A stream of a job's events becomes live in a fan-out (`darkq.jobs.fanout`): until it leaves, the
fan-out writes to it with `deliver` and `ping`, which never wait, and it has no task of its own.

At shutdown, streams end between two events as if they were complete. Readers reconnect with the id
of their last event, to another process.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias, cast

import msgspec
from aiohttp import web
from aiohttp.http import StreamWriter

from darkq import Settings
from darkq.jobs.fanout import Share, encode_chunk
from darkq.sse import frame
from darkq.telemetry.metrics import Tally
from darkq_gateway.http.errors import ApiError, handle_error, has_begun, make_body
from darkq_gateway.http.telemetry import RELAY

BEGIN_S = 0.2
PIECE_BYTES = 256 << 10
PING = b": ping\n"  # no blank line after it: OpenAI's Python client would take that as an event
PING_CHUNK = encode_chunk(PING)
DONE = b"data: [DONE]\n\n"  # ends a stream of OpenAI's chat API, or of the AI SDK
RETRY_MIN_MS, RETRY_MAX_MS = 500, 2000

MakeError: TypeAlias = Callable[[ApiError], dict[str, Any]]


class EventStream:
    """The response of one reader. `Streams.open` makes it."""

    __slots__ = (
        *("_connection", "_head", "_heartbeat_s", "_held", "_is_chunked", "_keep_alive_task"),
        *("_last_sent_s", "_make_error", "_request", "_response", "_tally", "_write_lock"),
        "_writer",
    )

    def __init__(
        self, request: web.Request, settings: Settings, tally: Tally, make_error: MakeError
    ) -> None:
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        self._request = request
        self._keep_alive_task: asyncio.Task[None] | None = None
        self._tally = tally
        self._make_error = make_error
        self._heartbeat_s = settings.gateway_heartbeat_s
        self._write_lock = asyncio.Lock()
        self._last_sent_s = 0.0
        # Random, so that the readers of a stopped process do not all reconnect at the same time. It
        # is sent with the first data: alone it would be an event without data.
        self._head = b"retry: %d\n" % random.randint(RETRY_MIN_MS, RETRY_MAX_MS)
        self._held = b""

    @property
    def begun(self) -> bool:
        """Whether the response has begun: its status cannot be changed any more."""
        return has_begun(self._request)

    @property
    def response(self) -> web.StreamResponse:
        """The response for a handler to return."""
        return self._response if self.begun else web.Response(status=204)

    def add_header(self, name: str, value: str) -> None:
        """Add a header to the response, which has not begun."""
        self._response.headers[name] = value

    def hold(self, frames: bytes) -> None:
        """Keep whole events and send them when the response begins.

        Until then an error still gets a response with its own status.
        """
        self._held += frames

    async def send(self, frames: bytes, came_s: float | None = None) -> None:
        """Send whole events, and wait until the socket has accepted them.

        `came_s` is the arrival time of the first one if they are live (`EventBatch`).
        Raises `ConnectionResetError` if the reader has disconnected or does not read.
        """
        frames, self._held = self._held + frames, b""
        if frames:
            head, self._head = self._head, b""
            await self._write(head + frames)
            if came_s is not None:
                self._tally.observe(RELAY, time.perf_counter() - came_s)

    async def begin(self) -> None:
        """Begin the response, with the held events if there are any."""
        if self._held:
            await self.send(b"")
        else:
            await self._write(b"")

    def enter_live(self) -> None:
        """Let a fan-out write to the response, which has begun."""
        if self._keep_alive_task is not None:
            self._keep_alive_task.cancel()
            self._keep_alive_task = None
        self._writer = cast(StreamWriter, self._request.writer)
        self._is_chunked = self._writer.chunked
        self._connection = self._request.protocol

    def deliver(self, share: Share) -> bool:
        """Write whole events without waiting; False if the socket has not accepted all bytes."""
        if self._head:
            head, self._head = self._head, b""
            data = head + share.plain
            return self._write_now(encode_chunk(data) if self._is_chunked else data)
        return self._write_now(share.chunked if self._is_chunked else share.plain)

    def ping(self) -> bool:
        """Write a comment, with the result of `deliver`."""
        return self._write_now(PING_CHUNK if self._is_chunked else PING)

    async def leave_live(self) -> None:
        """Wait until the socket has accepted what a fan-out wrote."""
        self.start_keep_alive()
        await self._write(b"")

    def start_keep_alive(self) -> None:
        """Begin the response after `BEGIN_S`, and ping whenever it is silent, in a task."""
        self._last_sent_s = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._keep_alive(), name="darkq-gateway-keepalive")
        self._keep_alive_task = task

    async def close(self) -> None:
        """End the task."""
        if (task := self._keep_alive_task) is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionResetError):  # the handler is cancelled then, too
            if not self.begun:
                await asyncio.sleep(BEGIN_S)
                await self.begin()
            while True:
                await asyncio.sleep(self._last_sent_s + self._heartbeat_s - loop.time())
                if loop.time() - self._last_sent_s >= self._heartbeat_s:
                    await self._write(PING)

    async def fail(self, error: Exception) -> None:
        """Send an error to the reader, in the format of the stream."""
        await self.send(encode_events([self._make_error(handle_error(error))]))

    def _write_now(self, data: bytes) -> bool:
        # Not by `response.write`, a coroutine that would encode the chunk for each reader.
        connection = self._connection
        transport = connection.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(data)
        self._writer.output_size += len(data)  # for the log record of the request
        return not connection._paused

    async def _write(self, data: bytes) -> None:
        async with self._write_lock:
            try:
                await self._response.prepare(self._request)
                # In pieces, since the transport copies what the socket does not accept. If the
                # connection breaks between two pieces, the last event has no blank line, so the
                # reader ignores it.
                for start in range(0, len(data), PIECE_BYTES):
                    await self._response.write(data[start : start + PIECE_BYTES])
                    await self._request.writer.drain()
            except ConnectionError:  # `drain` raises several kinds
                raise ConnectionResetError("the reader has disconnected") from None
            self._last_sent_s = asyncio.get_running_loop().time()


def encode_events(objects: Iterable[dict[str, Any]], *, named: bool = False) -> bytes:
    """Return objects as Server-Sent Events, each with its type as a name if they are `named`."""
    return b"".join(
        frame(msgspec.json.encode(each), event=each["type"] if named else None) for each in objects
    )


class Streams:
    """All event streams of the process: limits their number, and ends them at shutdown."""

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
        self,
        request: web.Request,
        *,
        resumable: bool = True,
        make_error: MakeError | None = None,
    ) -> AsyncIterator[EventStream]:
        """Open a stream for the length of the block.

        At shutdown a `resumable` stream ends at the next event; another one may continue for
        `DARKQ_GATEWAY_DRAIN_S`. `make_error` makes the event of an error, by default in the format
        of the path. Raises `ApiError` if too many streams are open.
        """
        if self.draining or self._open >= self._settings.gateway_max_readers:
            message = "too many event streams are open (DARKQ_GATEWAY_MAX_READERS)"
            raise ApiError(503, "too_many_readers", message, retry_after_s=2)
        make_error = make_error or partial(make_body, request.path)
        stream = EventStream(request, self._settings, self._tally, make_error)
        scope = asyncio.timeout(None)
        self._open += 1
        stream.start_keep_alive()
        try:
            async with scope:
                if resumable:
                    self._scopes.add(scope)
                yield stream
        except TimeoutError as error:
            if scope.expired():
                await stream.begin()  # with a 204 the reader would not reconnect
            else:
                await _send_error(stream, error)
        except ConnectionResetError:
            if not stream.begun:
                raise
        except Exception as error:
            await _send_error(stream, error)
        finally:
            self._open -= 1
            self._scopes.discard(scope)
            await stream.close()

    def drain(self) -> None:
        """End all resumable streams, and open no more."""
        self.draining = True
        now_s = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now_s)


async def _send_error(stream: EventStream, error: Exception) -> None:
    """Send an error as an event, or raise it if a response with its status is still possible."""
    if not stream.begun:
        raise error
    with suppress(ConnectionResetError):
        await stream.fail(error)


STREAMS = web.AppKey("streams", Streams)
