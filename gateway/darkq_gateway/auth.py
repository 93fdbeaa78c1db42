"""Who calls: the API key of a request becomes a `Caller`, and its limits are kept.

Once a key exists, every request needs one. A gateway that began without any, on loopback alone,
serves anybody until the first key is made, and nobody without one from then on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from darkq import ApiKey, Client, RedisUnavailable
from darkq_gateway.context import CALLER, Caller
from darkq_gateway.errors import ApiError

logger = logging.getLogger("darkq.gateway")

PLACE_LEASE_S = 30.0
"""A gateway that dies gives its calls' places back after so long."""

_PUBLIC = "darkq_is_public"

H = TypeVar("H", bound=Callable[..., object])


def public(handler: H) -> H:
    """Let a handler be called without a key."""
    setattr(handler, _PUBLIC, True)
    return handler


class Auth:
    """The middleware, and the calls in progress whose keys bound their number."""

    def __init__(self, client: Client, *, is_open: bool) -> None:
        self._keys = client.api_keys
        self._is_open = is_open
        self._calls: dict[str, ApiKey] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    @web.middleware
    async def authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Set the caller, or answer 401 or 429."""
        if getattr(request.match_info.handler, _PUBLIC, False):
            return await handler(request)
        caller = await self._caller(request)
        request[CALLER] = caller
        if caller.key is None or (caller.key.rate_per_s, caller.key.concurrency) == (None, None):
            return await handler(request)
        async with self._call(caller.key):
            return await handler(request)

    async def keep_places(self, _: web.Application) -> AsyncIterator[None]:
        """Renew the places of calls in progress while the app runs. For `cleanup_ctx`."""
        renewing = asyncio.create_task(self._renew(), name="darkq-gateway-places")
        yield
        renewing.cancel()
        await asyncio.wait([renewing, *self._leaving])

    async def _caller(self, request: web.Request) -> Caller:
        scheme, _, secret = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            key = await self._keys.find(secret.strip())
            if key is not None:
                return Caller(key.tenant, key)
        if await self.lets_anybody_in():  # to any key: OpenAI's clients cannot do without one
            return Caller()
        challenge = {"WWW-Authenticate": "Bearer"}
        raise ApiError(401, "invalid_api_key", "a valid API key is needed", headers=challenge)

    async def lets_anybody_in(self) -> bool:
        """Tell whether no key is needed. Raises `RedisUnavailable`."""
        # Never opened again: the last key may be revoked because it has leaked.
        if self._is_open and await self._keys.exist():
            self._is_open = False
        return self._is_open

    @asynccontextmanager
    async def _call(self, key: ApiKey) -> AsyncIterator[None]:
        call_id = secrets.token_hex(8)
        try:
            verdict, wait_s = await self._keys.enter(key, call_id, lease_s=PLACE_LEASE_S)
        except asyncio.CancelledError:  # who leaves this early may have got a place
            await self._leave(key, call_id)
            raise
        if verdict == "rate":
            message = "this key calls more often than it may"
            raise ApiError(429, "rate_limited", message, retry_after_s=wait_s)
        if verdict == "places":
            message = "this key has as many calls in progress as it may"
            raise ApiError(429, "too_many_calls", message, retry_after_s=1)
        self._calls[call_id] = key
        try:
            yield
        finally:
            del self._calls[call_id]
            await self._leave(key, call_id)

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

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(PLACE_LEASE_S / 3)
            held = [(key, id_) for id_, key in self._calls.items() if key.concurrency is not None]
            try:
                if held:
                    await self._keys.renew(held, lease_s=PLACE_LEASE_S)
            except RedisUnavailable as error:
                logger.warning("the places of %d calls were not renewed: %s", len(held), error)


AUTH = web.AppKey("auth", Auth)
