"""One client's connection: aiohttp's protocol, with rules that no handler can forget.

- Once the head of a response has been sent, nothing else may be sent as a response to its request.
  An error, another response, or a body that is shorter than its head says aborts the connection.
- A client that takes no byte of what waits for it for `DARKQ_GATEWAY_WRITE_TIMEOUT_S` is let go.
- The head of a request must arrive within `DARKQ_GATEWAY_READ_TIMEOUT_S` of its first byte, that of
  the first request so long after the connection was made.
- What aiohttp cannot read as HTTP is answered in our form, and the connection closed.
- When the process stops, a request in progress goes on, its body too, for `DARKQ_GATEWAY_DRAIN_S`
  at most. It is cut off as soon as it waits for its client, and no byte moves for `STALL_S`.

The second rule needs to know of every unsent byte. So the transport's high-water mark is 0:
`pause_writing` means that the kernel takes no more, and every `drain` waits until it has taken all.
That also bounds what a connection holds: one response, or one piece of a stream. The kernel in turn
takes no more than `UNSENT_BYTES` ahead of the client, rather than megabytes.
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
from darkq_gateway.http.context import UNSUPPORTED_VERSION, identify
from darkq_gateway.http.errors import (
    ApiError,
    error_of,
    has_begun,
    internal_error,
    log_bug,
    respond_error,
    unreadable,
    unsupported_version,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    RequestFactory: TypeAlias = Callable[..., web.BaseRequest]

logger = logging.getLogger("darkq.gateway")

UNSENT_BYTES = 128 << 10
"""How much the kernel holds that it has not sent yet, where it can be told (Linux, macOS)."""

STALL_S = 1.0
ENDING_S = 0.1
"""How long a cancelled handler may take to end when the process stops."""

_NO_LINGERING = struct.pack("ii", 1, 0)
_WITHOUT_BODY = (204, 304)
_UNREADABLE = "UNKNOWN"  # aiohttp's method for a request that it could not read


class Connection(web.RequestHandler):
    """Made by the server for each connection that it accepts."""

    __slots__ = ("_head_check", "_progress_check", "_read_timeout_s", "_wire", "_write_timeout_s")

    def __init__(
        self, server: web.Server, *, read_timeout_s: float, write_timeout_s: float, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._head_check: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None  # aiohttp forgets its own when it closes
        self._progress_check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Watch for unsent bytes from the first one on."""
        self._wire = wire = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        wire.set_write_buffer_limits(high=0)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            _set_option(wire, socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop watching."""
        self._wire = None
        self._stop_checking()
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the first ones of a head begin its time.

        aiohttp drops them once the connection is to be closed, and the request in progress would
        wait for the rest of its body in vain. A request behind that one is read, and not handled.
        """
        is_closing, self._close = self._close, False
        try:
            super().data_received(data)
        finally:
            self._close = self._close or is_closing
        if not self._is_waiting():
            self._head_is_there()
        elif data:
            self._expect_head()

    def pause_writing(self) -> None:
        """Bytes wait: look whether some are taken."""
        super().pause_writing()
        self._check_progress()

    def resume_writing(self) -> None:
        """Everything has been taken."""
        self._stop_checking()
        super().resume_writing()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Let the request in progress be answered, within so many seconds, and close."""
        if self._request_in_progress and self._task_handler is not None:
            await self._served(self._task_handler, timeout)
        await super().shutdown(ENDING_S)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send what is left of a response; True tells that the connection is of no more use."""
        if isinstance(resp, web.HTTPException):  # raised outside of the middlewares: `Expect`
            resp = respond_error(request, error_of(resp) or internal_error())
        if has_begun(request) and not resp.prepared:
            return self._cut_off(resp, "its handler has begun another one")
        finished = await super().finish_response(request, resp, start_time)
        if _is_cut_short(request, resp):
            return self._cut_off(resp, "it is shorter than its Content-Length")
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read, or what went wrong outside of the middlewares.

        Raises `ConnectionResetError` where no answer is possible any more.
        """
        if isinstance(exc, ConnectionError) or has_begun(request):
            self._abort()
            raise ConnectionResetError from None
        if isinstance(exc, HttpProcessingError):
            answer = _answer_to(exc)
        else:
            answer = internal_error()
            if exc is not None:
                log_bug(exc)
        response = respond_error(request, answer)
        response.force_close()
        identify(request, response)
        return response

    def _cut_off(
        self, response: web.StreamResponse, reason: str
    ) -> tuple[web.StreamResponse, bool]:
        logger.error(LogEvent("response cut off", reason=reason))
        self._abort()
        return response, True

    async def _served(self, handling: asyncio.Task[None], timeout_s: float | None) -> None:
        """Return when no request is in progress any more, or none that deserves to be waited for.

        `handling` ends after the request in progress, since the connection is to be closed.
        """
        loop = asyncio.get_running_loop()
        end_s = math.inf if timeout_s is None else loop.time() + timeout_s
        waits_at = self._waits_for_client()
        while (left_s := end_s - loop.time()) > 0:
            await asyncio.wait([handling], timeout=min(STALL_S, left_s))
            before, waits_at = waits_at, self._waits_for_client()
            if handling.done() or (waits_at is not None and waits_at == before):
                return

    def _waits_for_client(self) -> tuple[int, int] | None:
        """Return how far client and request are while one waits for the other: bytes in, unsent."""
        unsent_bytes = self._wire.get_write_buffer_size() if self._wire is not None else 0
        request = self._current_request
        body = None if request is None or request.content.is_eof() else request.content
        if unsent_bytes or (body is not None and body._waiter is not None):
            return body.total_bytes if body is not None else 0, unsent_bytes
        return None

    def _is_waiting(self) -> bool:
        """Tell whether no whole request is there to be handled."""
        return self._waiter is not None and not self._waiter.done()

    def _expect_head(self) -> None:
        if self._head_check is None:
            loop = asyncio.get_running_loop()
            self._head_check = loop.call_later(self._read_timeout_s, self.force_close)

    def _head_is_there(self) -> None:
        if self._head_check is not None:
            self._head_check.cancel()
            self._head_check = None

    def _check_progress(self, unsent_bytes: int | None = None) -> None:
        """Abort if nothing has been taken since there were so many bytes; else look again later.

        No bytes are added meanwhile: the sender waits until these have been taken.
        """
        if self._wire is None:
            return
        unsent_now = self._wire.get_write_buffer_size()
        if unsent_bytes is not None and unsent_now >= unsent_bytes:
            closed = "connection closed: its client takes nothing"
            logger.info(LogEvent(closed, after_s=self._write_timeout_s))
            self._abort()
            return
        self._progress_check = asyncio.get_running_loop().call_later(
            self._write_timeout_s, self._check_progress, unsent_now
        )

    def _stop_checking(self) -> None:
        if self._progress_check is not None:
            self._progress_check.cancel()
            self._progress_check = None

    def _abort(self) -> None:
        """Reset the connection, so that the kernel does not keep what is unsent either."""
        if self._wire is not None:
            _set_option(self._wire, socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
            self._wire.abort()


def _set_option(wire: asyncio.Transport, level: int, option: int, value: int | bytes) -> None:
    found = wire.get_extra_info("socket")
    if found is not None:
        with suppress(OSError):  # the client has gone already
            found.setsockopt(level, option, value)


def read_as_http_1_1(make_request: RequestFactory) -> RequestFactory:
    """Return a factory of requests whose responses are HTTP/1.0 or 1.1, whatever the request says.

    A request of another version is marked, and the door refuses it. No other protocol is switched
    to: after a request that offers one the connection is closed, since aiohttp would lose what the
    client has sent behind it. An expectation that is not ASCII is none.
    """

    def make(message: Any, *arguments: Any) -> web.BaseRequest:
        version = message.version
        is_supported = version in (HttpVersion10, HttpVersion11)
        if not is_supported or message.method == _UNREADABLE:
            message = message._replace(version=HttpVersion11, should_close=True)
        elif hdrs.UPGRADE in message.headers:
            message = message._replace(should_close=True)
        if not message.headers.get(hdrs.EXPECT, "").isascii():  # aiohttp's 417 cannot quote it
            headers = message.headers.copy()
            del headers[hdrs.EXPECT]
            message = message._replace(headers=headers)
        request = make_request(message, *arguments)
        if not is_supported:
            request[UNSUPPORTED_VERSION] = version
        return request

    return make


async def refuse_streaming_to_head(request: web.Request, response: web.StreamResponse) -> None:
    """Abort where a handler would stream to a HEAD: aiohttp would send its body.

    For `on_response_prepare`. The routes of such handlers say `allow_head=False`.
    """
    if request.method == hdrs.METH_HEAD and not isinstance(response, web.Response):
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("a HEAD cannot be streamed to")


def _answer_to(error: HttpProcessingError) -> ApiError:
    """Return the answer to a request that is no HTTP; nothing of it is quoted."""
    if "Invalid HTTP version" in error.message:  # 1.2, say, which the parser does not take
        return unsupported_version()
    return unreadable()


def _is_cut_short(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Tell whether a streamed body has fewer bytes than its head says."""
    if isinstance(response, web.Response) or response.status in _WITHOUT_BODY:
        return False
    return bool(request.writer.length)
