"""One request whose answer arrives piece by piece: its deadlines, its end, its failures.

Two clocks bound a call. The total runs from the start, whatever happens. The idle clock runs
only while somebody waits for bytes, and its owner restarts it when something of worth has
come: so it is the owner who says whether a server that merely pings is alive. One watchdog timer
enforces both. It begins with the request, and moves only when it rings: a read costs no timer.

Leaving the block closes the connection, unless the answer was read to its end: then the
session keeps it for the next call. A call whose kept connection died before a byte of its answer
is sent once more over a new one: see `connections`.

Connections to upstreams, kept from one call to the next.

A new connection costs a worker DNS, TCP and TLS: seven times the CPU of a short call over a kept
one, and two round trips. So aiohttp's pool keeps them, for less time than servers usually do, and
one call at a time uses each. Two things are added here.

**A server may close a kept connection just when the next call is sent over it.** That call was
perhaps never read, and failing it would burn a try of a job for nothing. So `CallConnection` notes
of each call whether its connection was used before, and whether a byte has come since: where
the first is true and the second is not, the call is sent once more, over a connection that is
new for certain. A server that has begun to answer is never asked twice.

**What comes over an idle connection is no answer.** A late byte of the last answer, or a 408 that a
proxy sends before it closes, would be read as the beginning of the next answer. A kept connection
over which anything has come is closed.

What came in place of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NewType, Self, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from darkq_worker.upstreams.base import (
    ProtocolViolation,
    Rejected,
    TimedOut,
    Truncated,
    Unreachable,
    UpstreamError,
)
from darkq_worker.upstreams.http_errors import http_error
from darkq_worker.upstreams.traced import answered, requested

CONNECT_TIMEOUT_S = 30.0
MAX_ERROR_BODY_BYTES = 64 << 10
ERROR_BODY_TIMEOUT_S = 5.0
FINISH_TIMEOUT_S = 0.1

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)

RequestHeaders = NewType("RequestHeaders", Mapping[str, str])


def prepare_headers(headers: Mapping[str, str], *, keeps_connection: bool = True) -> RequestHeaders:
    """Return what all requests of an upstream send, to be made once and not for each call."""
    closing = {} if keeps_connection else {"connection": "close"}
    return RequestHeaders({**headers, "accept-encoding": "identity", **closing})


class HttpStream:
    """A request in flight, POST or, without a body, GET; use it as an async context manager.

    Redirects are not followed and compressed answers are not unpacked. Entering raises
    `UpstreamError`; when it is cancelled, the connection is closed. `idle_setting` is the variable
    that holds `idle_timeout_s`, for errors. Without `keeps_connection` no other call uses its
    connection. With `sends_trace` the service hears which trace it is part of, if there is one.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        body: bytes | None,
        headers: RequestHeaders,
        proxy: str | None,
        timeout_s: float,
        idle_timeout_s: float,
        idle_setting: str,
        keeps_connection: bool = True,
        sends_trace: bool = False,
    ) -> None:
        self._session = session
        self._url = url
        self._body = body
        self._headers = headers
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._idle_setting = idle_setting
        self._keeps_connection = keeps_connection
        self._sends_trace = sends_trace
        self._late: TimedOut | None = None
        self._opener: asyncio.Task[Any] | None = None
        self._waiting = True
        self._only_keep_alives = False
        self._loop = asyncio.get_running_loop()

    async def open(self) -> Self:
        """Send the request; return when an answer has begun. Raises `UpstreamError`."""
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
            # As `asyncio.timeout` does it: a cancellation by anybody else is passed on.
            if late is not None and opener.uncancel() <= cancels and is_cancelled:
                raise late from None
            raise
        self._opener = None
        self._waiting = False
        self._idle_ends_at = self._loop.time() + self._idle_timeout_s
        answered(self._response.status)
        self._body = None  # a long prompt would stay for as long as its answer takes
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        self._watchdog.cancel()
        if self._response.connection is not None:  # else the session has it back, or it is gone
            self._abort()
            await asyncio.sleep(0)  # a transport closes its socket in the loop's next round

    @property
    def status(self) -> int:
        return self._response.status

    def header(self, name: str) -> str | None:
        """Return a header of the answer, if it is there."""
        return self._response.headers.get(name)

    def time(self) -> float:
        """Return the time by the clock of its deadlines, in seconds."""
        return self._loop.time()

    def restart_idle_clock(self) -> None:
        """Say that something of worth has come."""
        self._only_keep_alives = False
        self._idle_ends_at = self._loop.time() + self._idle_timeout_s

    async def read(self) -> bytes:
        """Return what has arrived, after waiting for it; at the end of the answer, `b""`.

        Raises `TimedOut`, and `Truncated` when the connection broke.
        """
        content = self._response.content
        self._waiting = True
        try:
            data = content.read_nowait()
            if not data and not content.at_eof():
                data = await content.readany()
            elif self._loop.time() >= self._ends_at:
                raise self._lateness()
            self._only_keep_alives = True  # until the owner says otherwise
            return data
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise self._late or _broken_answer(error, self.status) from None
        finally:
            self._waiting = False

    async def read_error_body(self) -> bytes:
        """Return the beginning of a refusal's body, as much as a few seconds bring."""
        body = b""
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                while len(body) < MAX_ERROR_BODY_BYTES and (chunk := await self.read()):
                    body += chunk
        return body[:MAX_ERROR_BODY_BYTES]

    async def finish(self) -> None:
        """Read the little that may follow, so that the session can keep the connection."""
        if self._response.connection is None:  # it has come, and the session has it back
            return
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(FINISH_TIMEOUT_S):
                while await self.read():
                    self._idle_ends_at = self._loop.time() + self._idle_timeout_s

    async def _send(self) -> aiohttp.ClientResponse:
        method = "GET" if self._body is None else "POST"
        headers: Mapping[str, str] = self._headers
        if trace := requested(self._url, method, sends_trace=self._sends_trace):
            headers = {**headers, **trace}
        connection = CallConnection(is_kept_after=self._keeps_connection)
        try:
            try:
                return await self._request(method, headers, connection)
            except (aiohttp.ClientError, OSError):
                if not connection.is_unheard:
                    raise
                return await self._request(method, headers, CallConnection(is_new=True))
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise _failed_request(error) from None

    async def _request(
        self, method: str, headers: Mapping[str, str], connection: CallConnection
    ) -> aiohttp.ClientResponse:
        with connection:
            return await self._session.request(
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
            silence += f" but keep-alives; where it queues for longer, raise {self._idle_setting}"
        return TimedOut(silence)

    def _abort(self) -> None:
        """Close the connection if the answer still holds it. Whoever reads is woken."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()  # close() would first take its leave, over TLS for 30 s
        self._response.close()


def _failed_request(error: Exception) -> UpstreamError:
    """What it means that no answer began. No URL is told: one of a proxy may hold a password."""
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
    """What it means that an answer broke off."""
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError | OSError):
        return Truncated("the connection broke in the middle of the answer", status=status)
    return ProtocolViolation("the upstream's answer is not HTTP", status=status)


def _reason(error: Exception) -> str:
    """The system's words for it: aiohttp's own name hosts and ports."""
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
    """The connection of one call: in its block the session's connector is asked for one. Once only.

    With `is_new` none is used that has carried a call before; without `is_kept_after` it is closed
    when the call ends.
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
        """Note which connection carries the call."""
        self._protocol = protocol
        self._is_kept = protocol.calls > 0
        if not self._is_kept_after:
            protocol.force_close()

    @property
    def is_unheard(self) -> bool:
        """Tell whether it is a kept connection, over which nothing has come for this call."""
        return self._is_kept and self._protocol is not None and not self._protocol.heard


_current_call: ContextVar[CallConnection | None] = ContextVar("darkq_call_connection", default=None)


class _Protocol(ResponseHandler):
    """A connection that counts its calls, and notes whether anything came since the last began."""

    calls = 0
    heard = False

    def data_received(self, data: bytes) -> None:
        self.heard = True
        super().data_received(data)


class CallConnector(aiohttp.TCPConnector):
    """The connections of a worker's calls, without a bound: the worker's slots are the bound."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, keepalive_timeout=IDLE_CONNECTION_S, **options)
        make_protocol: Callable[..., ResponseHandler] = _Protocol
        self._factory = partial(make_protocol, loop=asyncio.get_running_loop())

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection for a request: one that is kept and silent, else a new one."""
        call = _current_call.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if not isinstance(protocol, _Protocol):
                return connection
            wants_new = call is not None and call.is_new
            if protocol.calls == 0 or not (wants_new or protocol.should_close):
                if call is not None:
                    call.assign(protocol)
                protocol.calls += 1
                protocol.heard = False
                return connection
            connection.close()


def notices_dead(session: aiohttp.ClientSession) -> bool:
    """Tell whether a session's calls learn that their kept connection died unheard."""
    return isinstance(session.connector, CallConnector)


def make_session() -> aiohttp.ClientSession:
    """Make the one HTTP session of a worker: no cookies, nothing from the environment."""
    return aiohttp.ClientSession(
        connector=CallConnector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


class Refusal(NamedTuple):
    """An answer that is not 200. Of an HTML page, and of what is compressed, there is no body."""

    status: int
    is_html: bool
    body: bytes


async def find_refusal(http: HttpStream) -> Refusal | None:
    """Return how the call was refused, or None for a 200 that is sent as it is.

    Of a 200 the Content-Type says nothing: relays and servers of their own making send event
    streams under any. Its reader judges it by what it holds. Raises `ProtocolViolation`.
    """
    packing = http.header("content-encoding")
    is_packed = packing is not None and packing.lower() not in ("", "identity")
    if http.status != HTTPStatus.OK:
        is_html = content_type(http) == "text/html"
        body = b"" if is_html or is_packed else await http.read_error_body()
        return Refusal(http.status, is_html, body)
    if is_packed:  # unasked: a bomb, perhaps
        raise ProtocolViolation("the answer is compressed", status=http.status)
    return None


def content_type(http: HttpStream) -> str:
    """Return what the answer says that it is, in lower case, without parameters."""
    return (http.header("content-type") or "").partition(";")[0].strip().lower()
