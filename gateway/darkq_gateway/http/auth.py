"""Who calls: the API key of a request becomes a `Caller`, and its limits are kept.

Once a key exists, every request needs one. A gateway that began without any, on loopback alone,
serves every caller until the first key is made, and then those with a key. Streams that are
open when their key is revoked or expires are closed soon after (`ATTEND_S`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from darkq import ApiKey, Client, RedisUnavailable
from darkq.serving.api_keys import key_digest
from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.context import CALLER, Caller
from darkq_gateway.http.errors import ApiError

logger = logging.getLogger("darkq.gateway")

PLACE_LEASE_S = 30.0
"""A gateway that dies gives its calls' places back after so long."""

ATTEND_S = 10.0
"""How often places are renewed, and how long a call may outlive its key."""

_PUBLIC = "darkq_is_public"

H = TypeVar("H", bound=Callable[..., object])


def public(handler: H) -> H:
    """Let a handler be called without a key."""
    setattr(handler, _PUBLIC, True)
    return handler


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A request in progress. Without a digest of its key anybody was let in."""

    key: ApiKey | None
    digest: str | None
    transport: asyncio.Transport | None
    id: str = field(default_factory=lambda: secrets.token_hex(8))


class Auth:
    """The middleware, and the calls in progress: for their places, and for as long as their key."""

    def __init__(self, client: Client, *, is_open: bool) -> None:
        self._keys = client.api_keys
        self._is_open = is_open
        self._calls: set[_Call] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    @web.middleware
    async def authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Set the caller, or answer 401 or 429."""
        if getattr(request.match_info.handler, _PUBLIC, False):
            return await handler(request)
        caller, digest = await self._caller(request)
        request[CALLER] = caller
        call = _Call(caller.key, digest, request.transport)
        async with self._place(call):
            self._calls.add(call)
            try:
                return await handler(request)
            finally:
                self._calls.discard(call)

    async def attend(self, _: web.Application) -> AsyncIterator[None]:
        """Look after the calls in progress while the app runs. For `cleanup_ctx`."""
        attending = asyncio.create_task(self._attend(), name="darkq-gateway-calls")
        yield
        attending.cancel()
        await asyncio.wait([attending, *self._leaving])

    async def _caller(self, request: web.Request) -> tuple[Caller, str | None]:
        """Return who calls, and the digest of the key. Raises `ApiError`."""
        scheme, _, secret = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            key = await self._keys.find(secret.strip())
            if key is not None:
                return Caller(key.tenant, key), key_digest(secret.strip())
        if await self.lets_anybody_in():  # to any key: OpenAI's clients cannot do without one
            return Caller(), None
        challenge = {"WWW-Authenticate": "Bearer"}
        raise ApiError(401, "invalid_api_key", "a valid API key is needed", headers=challenge)

    async def lets_anybody_in(self) -> bool:
        """Tell whether no key is needed. Raises `RedisUnavailable`."""
        # Never opened again: the last key may be revoked because it has leaked.
        if self._is_open and await self._keys.exist():
            self._is_open = False
        return self._is_open

    @asynccontextmanager
    async def _place(self, call: _Call) -> AsyncIterator[None]:
        """Count a call against the limits of its key. Raises `ApiError`."""
        key = call.key
        if key is None or (key.rate_per_s, key.concurrency) == (None, None):
            yield
            return
        try:
            verdict, wait_s = await self._keys.enter(key, call.id, lease_s=PLACE_LEASE_S)
        except asyncio.CancelledError:  # who leaves this early may have got a place
            await self._leave(key, call.id)
            raise
        if verdict == "rate":
            message = "this key calls more often than it may"
            raise ApiError(429, "rate_limited", message, retry_after_s=wait_s)
        if verdict == "places":
            message = "this key has as many calls in progress as it may"
            raise ApiError(429, "too_many_calls", message, retry_after_s=1)
        try:
            yield
        finally:
            await self._leave(key, call.id)

    async def _leave(self, key: ApiKey, call_id: str) -> None:
        """Give a place back, also when the client leaves in the middle of this."""
        if key.concurrency is not None:
            leaving = asyncio.create_task(self._give_back(key, call_id), name="darkq-gateway-place")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            await asyncio.shield(leaving)

    async def _give_back(self, key: ApiKey, call_id: str) -> None:
        with suppress(RedisUnavailable):  # then the lease ends it
            await self._keys.leave(key, call_id)

    async def _attend(self) -> None:
        while True:
            await asyncio.sleep(ATTEND_S)
            for work in (self._renew_places, self._end_calls_without_key):
                try:
                    await work()
                except Exception as error:  # whatever it is, the next time it may work
                    kind = type(error).__name__
                    logger.warning(LogEvent("calls not attended", at=work.__name__, error=kind))

    async def _renew_places(self) -> None:
        limited = ((call.key, call.id) for call in self._calls if call.key is not None)
        held = [(key, call_id) for key, call_id in limited if key.concurrency is not None]
        if held:
            await self._keys.renew(held, lease_s=PLACE_LEASE_S)

    async def _end_calls_without_key(self) -> None:
        """Close the connections of calls whose key was revoked or has expired since they began.

        Most calls are over before that. Streams are not, nor are long uploads and waits.
        """
        digests = {call.digest for call in self._calls if call.digest is not None}
        good = await self._keys.good(digests) if digests else set()
        let_in = self._is_open and await self.lets_anybody_in()
        over = [
            call
            for call in self._calls
            if (call.digest not in good and call.digest in digests)
            or (call.digest is None and not let_in)
        ]
        for call in over:
            if call.transport is not None:
                call.transport.abort()
        if over:
            logger.info(LogEvent("calls ended whose key is gone", calls=len(over)))


AUTH = web.AppKey("auth", Auth)
