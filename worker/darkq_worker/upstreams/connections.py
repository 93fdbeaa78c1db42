"""Connections to upstreams, kept from one call to the next.

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
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from aiohttp.connector import Connection

IDLE_CONNECTION_S = 4.0  # uvicorn, Node and cpp-httplib close an idle connection after 5 s


class CallConnection:
    """The connection of one call: in its block the session's connector is asked for one. Once only.

    With `is_new` none is used that has carried a call before; without `is_kept_after` it is closed
    when the call ends.
    """

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
