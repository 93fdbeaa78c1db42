"""One request whose answer arrives piece by piece: its deadlines, its end, its failures.

Two clocks bound a call. The total runs from the start, whatever happens. The idle clock runs
only while somebody waits for bytes, and its owner restarts it when something of worth has
come: so it is the owner who says whether a server that merely pings is alive. A watchdog
timer enforces both. It begins with the first read that has to wait, and moves only when it rings,
which makes a read cost nothing.

Leaving the block closes the connection, unless the answer was read to its end: then the
session keeps it for the next call. A call whose kept connection died before a byte of its answer
is sent once more over a new one: see `connections`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from darkq_worker.upstreams.base import (
    ProtocolViolation,
    Rejected,
    TimedOut,
    Truncated,
    Unreachable,
    UpstreamError,
)
from darkq_worker.upstreams.connections import CallConnection
from darkq_worker.upstreams.http_failure import http_error
from darkq_worker.upstreams.traced import answered, requested

CONNECT_TIMEOUT_S = 30.0
MAX_ERROR_BODY_BYTES = 64 << 10
ERROR_BODY_TIMEOUT_S = 5.0
FINISH_TIMEOUT_S = 0.1

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)


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
        headers: Mapping[str, str],
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
        self._watchdog: asyncio.TimerHandle | None = None
        self._waiting = True
        self._only_keep_alives = False
        self._loop = asyncio.get_running_loop()

    async def open(self) -> Self:
        """Send the request; return when an answer has begun. Raises `UpstreamError`."""
        self._ends_at = self._loop.time() + self._timeout_s
        self.restart_idle_clock()
        try:
            async with asyncio.timeout_at(min(self._ends_at, self._idle_ends_at)):
                self._response = await self._send()
        except TimeoutError:
            raise self._lateness() from None
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
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._abort():
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
                if self._watchdog is None:  # most short answers come at once, and need none
                    self._idle_ends_at = self._loop.time() + self._idle_timeout_s
                    self._watch()
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
        trace = requested(self._url, method, sends_trace=self._sends_trace)
        headers = {**self._headers, **trace, "accept-encoding": "identity"}
        if not self._keeps_connection:
            headers["connection"] = "close"
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
        self._abort()

    def _lateness(self) -> TimedOut:
        if self._loop.time() >= self._ends_at:
            return TimedOut(f"the answer was not complete within {self._timeout_s:g} s")
        silence = f"nothing came for {self._idle_timeout_s:g} s"
        if self._only_keep_alives:
            silence += f" but keep-alives; where it queues for longer, raise {self._idle_setting}"
        return TimedOut(silence)

    def _abort(self) -> bool:
        """Close the connection if the answer still holds it. Whoever reads is woken."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()  # close() would first take its leave, over TLS for 30 s
        self._response.close()
        return connection is not None


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
