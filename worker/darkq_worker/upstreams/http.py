"""HTTP calls to upstreams: streaming responses, their deadlines, and kept connections.

Two clocks bound a call. The total runs from the start. The idle clock runs only while a read waits
for data, and the caller restarts it when something useful has arrived: so the caller decides
whether a server that only sends keep-alives is alive. One watchdog timer enforces both. It starts
with the request, and is set anew only when it fires: a read costs no timer.

Leaving the block closes the connection, unless the response was read to its end. Then the session
keeps it for the next call. A new connection costs a worker DNS, TCP and TLS: seven times the CPU of
a short call over a kept one, and two round trips. So aiohttp's pool keeps connections, for less
time than servers usually do, and each carries one call at a time. Two things are added here.

**A server may close a kept connection while the next call is sent over it.** Probably it never read
that call, and failing it would use up a try of a job. So a `CallConnection` records whether the
connection had carried a call before, and whether any byte arrived since. If it had, and none did,
the call is sent once more, over a new connection. A call that a server has begun to answer is never
repeated.

**Data on an idle connection is not a response.** A late byte of the last response, or the 408 of a
proxy before it closes, would be read as the start of the next response. So a kept connection that
received anything while idle is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from darkq_worker.upstreams.base import (
    ProtocolViolation,
    Rejected,
    TimedOut,
    Truncated,
    Unreachable,
    UpstreamError,
)
from darkq_worker.upstreams.http_errors import http_error
from darkq_worker.upstreams.traced import record_request, record_status

CONNECT_TIMEOUT_S = 30.0
MAX_ERROR_BODY_BYTES = 64 << 10
ERROR_BODY_TIMEOUT_S = 5.0
FINISH_TIMEOUT_S = 0.1

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)


@dataclass(frozen=True, kw_only=True)
class HttpService:
    """How the calls of one upstream are made.

    `proxy` is for calls without one of their own. `idle_setting` is the variable that sets
    `idle_timeout_s`, for error messages. Without `keeps_connections` each carries one call. With
    `sends_trace` the trace context is sent to the service, if there is one.
    """

    session: aiohttp.ClientSession
    proxy: str | None
    timeout_s: float
    idle_timeout_s: float
    idle_setting: str
    keeps_connections: bool = True
    sends_trace: bool = False

    def prepare_headers(self, headers: Mapping[str, str]) -> CIMultiDict[str]:
        """Return the headers of all requests, in the form that aiohttp needs."""
        closing = {} if self.keeps_connections else {"connection": "close"}
        return CIMultiDict({**headers, "accept-encoding": "identity", **closing})


class HttpStream:
    """One request, POST or, without a body, GET; use it as an async context manager.

    Redirects are not followed, and compressed responses are not unpacked. Entering raises
    `UpstreamError`; if it is cancelled, the connection is closed.
    """

    def __init__(
        self,
        service: HttpService,
        url: str,
        *,
        body: bytes | None,
        headers: CIMultiDict[str],
        proxy: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self._service = service
        self._url = url
        self._body = body
        self._headers = headers
        self._proxy = proxy or service.proxy
        self._timeout_s = service.timeout_s if timeout_s is None else timeout_s
        self._idle_timeout_s = service.idle_timeout_s
        self._late: TimedOut | None = None
        self._opener: asyncio.Task[Any] | None = None
        self._waiting = True
        self._only_keep_alives = False
        self._loop = asyncio.get_running_loop()

    async def open(self) -> Self:
        """Send the request; return when the response has begun. Raises `UpstreamError`."""
        now = self._loop.time()
        self._ends_at, self._idle_ends_at = now + self._timeout_s, now + self._idle_timeout_s
        opener = self._opener = cast("asyncio.Task[Any]", asyncio.current_task())
        cancels = opener.cancelling()
        self._watch()
        try:
            self._response = await self._send()
        except BaseException as error:
            self._watchdog.cancel()
            late, is_cancelled = self._late, isinstance(error, asyncio.CancelledError)
            # The watchdog cancels this task. As in `asyncio.timeout`, a cancellation by anyone else
            # at the same time must go on, and is what `uncancel` reveals.
            if late is not None and opener.uncancel() <= cancels and is_cancelled:
                raise late from None
            raise
        self._opener = None
        self._waiting = False
        self._idle_ends_at = self._loop.time() + self._idle_timeout_s
        record_status(self._response.status)
        self._body = None  # frees the memory of a long prompt while the answer is streamed
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, unless the response was read to its end."""
        self._watchdog.cancel()
        if self._response.connection is not None:  # neither returned to the pool nor lost
            self._abort()
            await asyncio.sleep(0)  # the transport closes its socket in the next loop iteration

    @property
    def status(self) -> int:
        return self._response.status

    def header(self, name: str) -> str | None:
        """Return a header of the response, or None."""
        return self._response.headers.get(name)

    def time(self) -> float:
        """Return the time of the clock of the deadlines, in seconds."""
        return self._loop.time()

    def restart_idle_clock(self) -> None:
        """Note that something useful has arrived."""
        self._only_keep_alives = False
        self._idle_ends_at = self._loop.time() + self._idle_timeout_s

    async def read(self) -> bytes:
        """Wait for data and return it; `b""` at the end of the response.

        Raises `TimedOut`, and `Truncated` if the connection broke.
        """
        content = self._response.content
        self._waiting = True
        try:
            data = content.read_nowait()
            if not data and not content.at_eof():
                data = await content.readany()
            elif self._loop.time() >= self._ends_at:
                raise self._lateness()  # data that is always ready never lets the watchdog run
            self._only_keep_alives = True  # until the caller restarts the idle clock
            return data
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise self._late or _broken_answer(error, self.status) from None
        finally:
            self._waiting = False

    async def read_error_body(self) -> bytes:
        """Return the beginning of an error body, as much as arrives in a few seconds."""
        body = b""
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                while len(body) < MAX_ERROR_BODY_BYTES and (chunk := await self.read()):
                    body += chunk
        return body[:MAX_ERROR_BODY_BYTES]

    async def finish(self) -> None:
        """Read the rest of the response, so that the session can keep the connection."""
        if self._response.connection is None:  # the end was read: the pool has it already
            return
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(FINISH_TIMEOUT_S):
                while await self.read():
                    self._idle_ends_at = self._loop.time() + self._idle_timeout_s

    async def _send(self) -> aiohttp.ClientResponse:
        method = "GET" if self._body is None else "POST"
        headers: Mapping[str, str] = self._headers
        if trace := record_request(self._url, method, sends_trace=self._service.sends_trace):
            headers = {**headers, **trace}
        # A server may close an idle connection just as we send. Only a call without any byte of
        # response may be repeated, and only once, over a connection that cannot be stale.
        connection = CallConnection(is_kept_after=self._service.keeps_connections)
        try:
            try:
                return await self._request(method, headers, connection)
            except (aiohttp.ClientError, OSError):
                if not connection.is_stale:
                    raise
                return await self._request(method, headers, CallConnection(is_new=True))
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise _failed_request(error) from None

    async def _request(
        self, method: str, headers: Mapping[str, str], connection: CallConnection
    ) -> aiohttp.ClientResponse:
        with connection:
            return await self._service.session.request(
                method,
                self._url,
                data=self._body,
                headers=headers,
                proxy=self._proxy,
                allow_redirects=False,
                auto_decompress=False,
                raise_for_status=False,
                timeout=_TIMEOUT,
            )

    def _watch(self) -> None:
        # One timer for the life of the call: when it fires early, because the deadlines have moved,
        # it is only set again. So a read needs no timer of its own.
        now = self._loop.time()
        ends_at = min(self._ends_at, self._idle_ends_at if self._waiting else self._ends_at)
        if now < ends_at:
            next_look = min(ends_at, now + self._idle_timeout_s)
            self._watchdog = self._loop.call_at(next_look, self._watch)
            return
        self._late = self._lateness()
        if self._opener is not None:
            self._opener.cancel()
        else:
            self._abort()

    def _lateness(self) -> TimedOut:
        if self._loop.time() >= self._ends_at:
            return TimedOut(f"the answer was not complete within {self._timeout_s:g} s")
        silence = f"nothing came for {self._idle_timeout_s:g} s"
        if self._only_keep_alives:
            silence += (
                f" but keep-alives; where it queues for longer, raise {self._service.idle_setting}"
            )
        return TimedOut(silence)

    def _abort(self) -> None:
        """Close the connection if the response still has it. A pending read is woken."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()  # close() would wait up to 30 s for the end of TLS
        self._response.close()


def _failed_request(error: Exception) -> UpstreamError:
    """Return the error for a request without a response. No URL: a proxy's may have a password."""
    match error:
        case aiohttp.ClientHttpProxyError():
            return http_error(error.status, is_html=False, detail="said by the proxy")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return Rejected("the URL of the upstream, or of the proxy, is none of HTTP")
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return ProtocolViolation("the upstream's answer is not HTTP")
        case aiohttp.ConnectionTimeoutError():
            return Unreachable(f"no connection within {CONNECT_TIMEOUT_S:g} s")
        case aiohttp.ClientConnectorDNSError():
            return Unreachable("the host name is not known")
        case aiohttp.ClientProxyConnectionError():
            return Unreachable(f"no connection to the proxy: {_reason(error)}")
        case aiohttp.ServerDisconnectedError():
            return Unreachable("the connection was closed before an answer")
    return Unreachable(f"no connection: {_reason(error)}")


def _broken_answer(error: Exception, status: int) -> UpstreamError:
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError | OSError):
        return Truncated("the connection broke in the middle of the answer", status=status)
    return ProtocolViolation("the upstream's answer is not HTTP", status=status)


def _reason(error: Exception) -> str:
    """Return the text of the operating system: aiohttp's texts contain hosts and ports."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failed, or the certificate is not trusted"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
        return os.strerror(cause.errno).lower()
    return type(cause).__name__


if TYPE_CHECKING:
    from aiohttp.connector import Connection

IDLE_CONNECTION_S = 4.0  # uvicorn, Node and cpp-httplib close an idle connection after 5 s


class CallConnection:
    """The connection of one call. The session's connector assigns one inside the block.

    With `is_new` the connection must not have carried a call before; without `is_kept_after` it is
    closed when the call ends. Enter each instance only once.
    """

    __slots__ = ("_is_kept", "_is_kept_after", "_protocol", "_token", "is_new")

    def __init__(self, *, is_new: bool = False, is_kept_after: bool = True) -> None:
        self.is_new = is_new
        self._is_kept_after = is_kept_after
        self._protocol: _Protocol | None = None
        self._is_kept = False

    def __enter__(self) -> None:
        self._token = _current_call.set(self)

    def __exit__(self, *error: object) -> None:
        _current_call.reset(self._token)

    def assign(self, protocol: _Protocol) -> None:
        """Record which connection carries the call."""
        self._protocol = protocol
        self._is_kept = protocol.calls > 0
        if not self._is_kept_after:
            protocol.force_close()

    @property
    def is_stale(self) -> bool:
        """True for a kept connection on which nothing has arrived for this call."""
        return self._is_kept and self._protocol is not None and not self._protocol.has_data


_current_call: ContextVar[CallConnection | None] = ContextVar("darkq_call_connection", default=None)


class _Protocol(ResponseHandler):
    """A connection that counts its calls, and records whether the latest one has received data."""

    calls = 0
    has_data = False

    def data_received(self, data: bytes) -> None:
        self.has_data = True
        super().data_received(data)


class CallConnector(aiohttp.TCPConnector):
    """The connections of a worker's calls. They have no limit of their own: its slots are one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, keepalive_timeout=IDLE_CONNECTION_S, **options)
        # The only way to use a protocol class of our own. `_factory` is private to aiohttp.
        make_protocol: Callable[..., ResponseHandler] = _Protocol
        self._factory = partial(make_protocol, loop=asyncio.get_running_loop())

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection for a request: a kept one without unread data, or a new one."""
        call = _current_call.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if not isinstance(protocol, _Protocol):
                return connection
            # aiohttp returns kept connections too. Each one that does not fit is closed, so the
            # loop ends at a new connection at the latest.
            wants_new = call is not None and call.is_new
            if protocol.calls == 0 or not (wants_new or protocol.should_close):
                if call is not None:
                    call.assign(protocol)
                protocol.calls += 1
                protocol.has_data = False
                return connection
            connection.close()


def make_session(**options: Any) -> aiohttp.ClientSession:
    """Make the HTTP session of a worker, without cookies and environment settings.

    `options` are those of its connector.
    """
    return aiohttp.ClientSession(
        connector=CallConnector(**options),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


class Refusal(NamedTuple):
    """A response other than 200. HTML pages and compressed bodies are left out."""

    status: int
    is_html: bool
    body: bytes


async def find_refusal(http: HttpStream) -> Refusal | None:
    """Return how the call was refused, or None for an uncompressed 200.

    The Content-Type of a 200 is ignored: relays send event streams with any type. Its reader judges
    the content. Raises `ProtocolViolation`.
    """
    packing = http.header("content-encoding")
    is_packed = packing is not None and packing.lower() not in ("", "identity")
    if http.status != HTTPStatus.OK:
        media_type, _, _ = (http.header("content-type") or "").partition(";")
        is_html = media_type.strip().lower() == "text/html"
        body = b"" if is_html or is_packed else await http.read_error_body()
        return Refusal(http.status, is_html, body)
    if is_packed:  # not requested, so it may be a decompression bomb
        raise ProtocolViolation("the answer is compressed", status=http.status)
    return None
