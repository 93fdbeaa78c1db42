"""The connection of one client: aiohttp's protocol, plus rules that hold for all handlers.

1. After the head of a response, nothing else may be sent as a response to the same request. An
   error, a second response, or a body shorter than its `Content-Length` aborts the connection.
2. If bytes wait to be sent and the client reads none for `DARKQ_GATEWAY_WRITE_TIMEOUT_S`, the
   connection is aborted.
3. The head of a request must arrive within `DARKQ_GATEWAY_READ_TIMEOUT_S` after its first byte;
   that of the first request, after the connection was accepted.
4. A request that is not valid HTTP gets an error response in our format, and the connection closes.
5. At shutdown a request in progress may continue for `DARKQ_GATEWAY_DRAIN_S`, including its body.
   If it waits for its client and no byte moves for `STALL_S`, it is aborted earlier.

Rule 2 must see each unsent byte. So the high-water mark of the transport is 0: `pause_writing` then
means that the kernel's buffer is full, and each `drain` waits until the transport's is empty. This
also limits the memory of a connection to one response or one piece of a stream. `UNSENT_BYTES`
limits the kernel's buffer, which could otherwise grow to megabytes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11

from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.context import UNSUPPORTED_VERSION, set_common_headers
from darkq_gateway.http.errors import (
    bad_request,
    convert_error,
    has_begun,
    internal_error,
    log_bug,
    respond_error,
    unsupported_version,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    RequestFactory: TypeAlias = Callable[..., web.BaseRequest]

logger = logging.getLogger("darkq.gateway")

UNSENT_BYTES = 128 << 10
"""Limit of unsent bytes in the kernel, on systems that support it (Linux, macOS)."""

STALL_S = 1.0
ENDING_S = 0.1
"""How long a cancelled handler may take to end at shutdown."""

_NO_LINGERING = struct.pack("ii", 1, 0)
_WITHOUT_BODY = (204, 304)
_UNREADABLE = "UNKNOWN"  # aiohttp's method for a request that it could not parse


class Connection(web.RequestHandler):
    """The protocol of an accepted connection."""

    __slots__ = ("_head_timer", "_progress_timer", "_read_timeout_s", "_wire", "_write_timeout_s")

    def __init__(
        self, server: web.Server, *, read_timeout_s: float, write_timeout_s: float, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        # aiohttp sets its own reference to None while it closes.
        self._wire: asyncio.Transport | None = None
        self._progress_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the buffer limits, and start the timer of the first head."""
        self._wire = wire = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        wire.set_write_buffer_limits(high=0)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            _set_option(wire, socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop all timers."""
        self._wire = None
        self._stop_progress_timer()
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; the first byte of a head starts its timer."""
        # With `_close` set, aiohttp discards received bytes, and a request in progress would wait
        # for the rest of its body until a timeout. So it is unset while the bytes are parsed. A
        # further request on the connection is parsed but not handled.
        is_closing, self._close = self._close, False
        try:
            super().data_received(data)
        finally:
            self._close = self._close or is_closing
        if not self._is_idle():
            self._stop_head_timer()
        elif data:
            self._start_head_timer()

    def pause_writing(self) -> None:
        """Unsent bytes remain: start the check that the client reads."""
        super().pause_writing()
        self._check_progress()

    def resume_writing(self) -> None:
        """All bytes have been sent."""
        self._stop_progress_timer()
        super().resume_writing()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Wait for the request in progress, for at most `timeout` seconds, and close."""
        if self._request_in_progress and self._task_handler is not None:
            await self._wait_for_handler(self._task_handler, timeout)
        await super().shutdown(ENDING_S)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the rest of a response; True if the connection can not be used any more."""
        if isinstance(resp, web.HTTPException):  # not from a handler, but from `Expect`
            resp = respond_error(request, convert_error(resp) or internal_error())
        if has_begun(request) and not resp.prepared:
            return self._abort_response(resp, "another response has begun")
        finished = await super().finish_response(request, resp, start_time)
        if _is_too_short(request, resp):
            return self._abort_response(resp, "shorter than its Content-Length")
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to invalid HTTP, or to an error outside of the middlewares.

        Raises `ConnectionResetError` if no response is possible any more.
        """
        if isinstance(exc, ConnectionError) or has_begun(request):
            self._abort()
            raise ConnectionResetError from None
        if isinstance(exc, HttpProcessingError):
            is_version = "Invalid HTTP version" in exc.message  # such as 1.2
            described = unsupported_version() if is_version else bad_request()
        else:
            described = internal_error()
            if exc is not None:
                log_bug(exc)
        response = respond_error(request, described)
        response.force_close()
        set_common_headers(request, response)
        return response

    def _abort_response(
        self, response: web.StreamResponse, reason: str
    ) -> tuple[web.StreamResponse, bool]:
        logger.error(LogEvent("response aborted", reason=reason))
        self._abort()
        return response, True

    async def _wait_for_handler(
        self, handling: asyncio.Task[None], timeout_s: float | None
    ) -> None:
        """Wait until the request in progress has ended, stalls, or has used up its time.

        `handling` ends after that request, since the connection is closing.
        """
        loop = asyncio.get_running_loop()
        end_s = math.inf if timeout_s is None else loop.time() + timeout_s
        waits_at = self._measure_stall()
        while (left_s := end_s - loop.time()) > 0:
            await asyncio.wait([handling], timeout=min(STALL_S, left_s))
            before, waits_at = waits_at, self._measure_stall()
            if handling.done() or (waits_at is not None and waits_at == before):
                return

    def _measure_stall(self) -> tuple[int, int] | None:
        """Return bytes received and unsent if the request waits for its client, else None.

        Equal values at two times mean that no byte has moved in between.
        """
        unsent_bytes = self._wire.get_write_buffer_size() if self._wire is not None else 0
        request = self._current_request
        body = None if request is None or request.content.is_eof() else request.content
        if unsent_bytes or (body is not None and body._waiter is not None):
            return body.total_bytes if body is not None else 0, unsent_bytes
        return None

    def _is_idle(self) -> bool:
        """Return whether the handler loop waits for the head of the next request."""
        return self._waiter is not None and not self._waiter.done()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(self._read_timeout_s, self.force_close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _check_progress(self, unsent_bytes: int | None = None) -> None:
        """Abort if no byte was sent since there were `unsent_bytes`; else check again later."""
        # The comparison is valid because the number can only fall: while bytes are unsent, the
        # sender waits in `drain` and adds none.
        if self._wire is None:
            return
        unsent_now = self._wire.get_write_buffer_size()
        if unsent_bytes is not None and unsent_now >= unsent_bytes:
            stalled = "connection aborted: client does not read"
            logger.info(LogEvent(stalled, after_s=self._write_timeout_s))
            self._abort()
            return
        self._progress_timer = asyncio.get_running_loop().call_later(
            self._write_timeout_s, self._check_progress, unsent_now
        )

    def _stop_progress_timer(self) -> None:
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    def _abort(self) -> None:
        """Reset the connection, so that the kernel discards unsent bytes, too."""
        if self._wire is not None:
            _set_option(self._wire, socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
            self._wire.abort()


def _set_option(wire: asyncio.Transport, level: int, option: int, value: int | bytes) -> None:
    found = wire.get_extra_info("socket")
    if found is not None:
        with suppress(OSError):  # the client has disconnected already
            found.setsockopt(level, option, value)


def read_as_http_1_1(make_request: RequestFactory) -> RequestFactory:
    """Wrap a factory of requests so that each response is HTTP/1.0 or HTTP/1.1.

    A request of another version is marked, and `HostCheck` refuses it. Protocol upgrades are not
    supported: after a request with `Upgrade` the connection closes, since aiohttp would lose the
    bytes behind it. An `Expect` header that is not ASCII is removed.
    """

    def make(message: Any, *arguments: Any) -> web.BaseRequest:
        version = message.version
        is_supported = version in (HttpVersion10, HttpVersion11)
        if not is_supported or message.method == _UNREADABLE:
            message = message._replace(version=HttpVersion11, should_close=True)
        elif hdrs.UPGRADE in message.headers:
            message = message._replace(should_close=True)
        if not message.headers.get(hdrs.EXPECT, "").isascii():  # aiohttp could not quote it
            headers = message.headers.copy()
            del headers[hdrs.EXPECT]
            message = message._replace(headers=headers)
        request = make_request(message, *arguments)
        if not is_supported:
            request[UNSUPPORTED_VERSION] = version
        return request

    return make


async def refuse_streaming_to_head(request: web.Request, response: web.StreamResponse) -> None:
    """Abort a streamed response to a HEAD request: aiohttp would send its body.

    For `on_response_prepare`. Routes of streaming handlers must have `allow_head=False`.
    """
    if request.method == hdrs.METH_HEAD and not isinstance(response, web.Response):
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("a streamed response to HEAD")


def _is_too_short(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Return whether a streamed body has fewer bytes than its `Content-Length`."""
    if isinstance(response, web.Response) or response.status in _WITHOUT_BODY:
        return False
    return bool(request.writer.length)
