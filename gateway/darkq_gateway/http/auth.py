"""Authentication: maps the API key or ticket of a request to a `Caller`, and enforces limits.

Once a key exists, every request needs one. A gateway that starts without a key, which is allowed on
loopback only, serves all callers until the first key is created. A stream whose key is revoked or
expires is closed within `CHECK_INTERVAL_S`.

Handlers that are marked `@accepts_ticket` also take a ticket, as `?ticket=`: an `EventSource` can
send no header. A ticket that a key has requested is valid as long as that key, and its calls count
against the limits of that key. With an API key in the request, the ticket is ignored.

A key with a concurrency limit has that many slots, in Redis. Each call holds one under a lease, so
the slots of a gateway that died become free again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from darkq import ApiKey, Client, RedisUnavailable
from darkq.protocol.ticket import ANONYMOUS, LIBRARY
from darkq.serving.api_keys import key_digest
from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.background import run_beside
from darkq_gateway.http.context import CALLER, Caller
from darkq_gateway.http.errors import ApiError

logger = logging.getLogger("darkq.gateway")

SLOT_LEASE_S = 30.0
"""The slots of a gateway that died become free after this time."""

CHECK_INTERVAL_S = 10.0
"""The interval at which slots are renewed, and calls without a valid key are closed."""

TICKET = "ticket"
"""The query parameter."""

_PUBLIC = "darkq_is_public"
_TICKET_RIGHT = "darkq_ticket_right"

H = TypeVar("H", bound=Callable[..., object])


def public(handler: H) -> H:
    """Mark a handler that needs no API key."""
    setattr(handler, _PUBLIC, True)
    return handler


def accepts_ticket(*, to_cancel: bool = False) -> Callable[[H], H]:
    """Mark a handler that accepts a ticket; `to_cancel`: only one that allows to cancel.

    The handler must get its object from `get_own_job` or `get_own_batch`.
    """

    def mark(handler: H) -> H:
        setattr(handler, _TICKET_RIGHT, "cancel" if to_cancel else "read")
        return handler

    return mark


class Auth:
    """The middleware, and the calls in progress: it renews their slots and checks their keys."""

    def __init__(self, client: Client, *, is_open: bool | None) -> None:
        self._keys = client.api_keys
        self._tickets = client.tickets
        self._is_open = is_open
        self._calls: dict[str, tuple[Caller, asyncio.Transport | None]] = {}
        self._releases: set[asyncio.Task[None]] = set()

    def open(self, *, is_open: bool) -> None:
        """Decide whether requests need no key, once Redis is available."""
        self._is_open = is_open

    @web.middleware
    async def authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Set the caller of a request, or respond 401 or 429."""
        if getattr(request.match_info.handler, _PUBLIC, False):
            return await handler(request)
        request[CALLER] = caller = await self._identify(request)
        call_id = secrets.token_hex(8)
        async with self._hold_slot(caller.key, call_id):
            self._calls[call_id] = caller, request.transport
            try:
                return await handler(request)
            finally:
                del self._calls[call_id]

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Check the calls in progress while the application runs. For `cleanup_ctx`."""
        async with run_beside(self._check_calls(), name="darkq-gateway-calls"):
            yield
        if self._releases:
            await asyncio.wait(self._releases)

    async def _identify(self, request: web.Request) -> Caller:
        """Return the caller. Raises `ApiError`."""
        scheme, _, secret = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            key = await self._keys.find(secret.strip())
            if key is not None:
                return Caller(key.tenant, key, maker=key_digest(secret.strip()))
        else:
            right = getattr(request.match_info.handler, _TICKET_RIGHT, None)
            if right is not None and (texts := request.query.getall(TICKET, [])):
                return await self._identify_by_ticket(texts, to_cancel=right == "cancel")
        if await self.allows_anonymous():  # with any key, since OpenAI's clients always send one
            return Caller()
        raise _unauthorized()

    async def _identify_by_ticket(self, texts: Sequence[str], *, to_cancel: bool) -> Caller:
        """Return the caller with a ticket. Raises `ApiError`: the same for all invalid ones."""
        ticket = await self._tickets.check(texts[0]) if len(texts) == 1 else None
        if ticket is None:
            raise _unauthorized()
        key = None
        if ticket.maker == ANONYMOUS:
            if not await self.allows_anonymous():
                raise _unauthorized()
        elif ticket.maker != LIBRARY:
            key = await self._keys.find_by_digest(ticket.maker)
            if key is None:
                raise _unauthorized()
        if to_cancel and not ticket.cancel:
            raise ApiError(403, "ticket_not_allowed", "this ticket does not allow to cancel")
        return Caller(ticket.tenant or None, key, ticket, ticket.maker)

    async def allows_anonymous(self) -> bool:
        """Return whether requests need no key. Raises `RedisUnavailable`."""
        if self._is_open is None:
            raise RedisUnavailable("it has not been available since the start")
        # Never back to True: the last key may have been revoked because it leaked.
        if self._is_open and await self._keys.exist():
            self._is_open = False
        return self._is_open

    @asynccontextmanager
    async def _hold_slot(self, key: ApiKey | None, call_id: str) -> AsyncIterator[None]:
        """Count a call against its key's limits for the length of the block. Raises `ApiError`."""
        if key is None or (key.rate_per_s, key.concurrency) == (None, None):
            yield
            return
        try:
            verdict, wait_s = await self._keys.enter(key, call_id, lease_s=SLOT_LEASE_S)
        except asyncio.CancelledError:  # the script may have run already and taken a slot
            await self._release_slot(key, call_id)
            raise
        if verdict == "rate":
            message = "this API key has exceeded its rate limit"
            raise ApiError(429, "rate_limited", message, retry_after_s=wait_s)
        if verdict == "places":
            message = "this API key has reached its limit of concurrent calls"
            raise ApiError(429, "too_many_calls", message, retry_after_s=1)
        try:
            yield
        finally:
            await self._release_slot(key, call_id)

    async def _release_slot(self, key: ApiKey, call_id: str) -> None:
        """Release a slot. If the client disconnects meanwhile, the release still completes."""
        if key.concurrency is not None:
            release = asyncio.create_task(self._leave(key, call_id), name="darkq-gateway-release")
            self._releases.add(release)
            release.add_done_callback(self._releases.discard)
            await asyncio.shield(release)

    async def _leave(self, key: ApiKey, call_id: str) -> None:
        with suppress(RedisUnavailable):  # then the slot becomes free when its lease ends
            await self._keys.leave(key, call_id)

    async def _check_calls(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            for work in (self._renew_slots, self._abort_calls_without_key):
                try:
                    await work()
                except Exception as error:  # of any kind: it is tried again in the next interval
                    kind = type(error).__name__
                    logger.warning(LogEvent("call check failed", step=work.__name__, error=kind))

    async def _renew_slots(self) -> None:
        held = [
            (caller.key, call_id)
            for call_id, (caller, _) in self._calls.items()
            if caller.key is not None and caller.key.concurrency is not None
        ]
        if held:
            await self._keys.renew(held, lease_s=SLOT_LEASE_S)

    async def _abort_calls_without_key(self) -> None:
        """Abort the connections of calls whose key or ticket has ended since they began.

        Most calls end before that; streams, long uploads and waiting requests do not.
        """
        calls = self._calls.values()
        digests = {digest for caller, _ in calls if (digest := caller.key_digest) is not None}
        good = await self._keys.good(digests) if digests else set()
        allows_anonymous = self._is_open and await self.allows_anonymous()
        now_ms = time.time() * 1000
        over = [
            transport
            for caller, transport in calls
            if (caller.key_digest in digests and caller.key_digest not in good)
            or (caller.maker == ANONYMOUS and not allows_anonymous)
            or (caller.ticket is not None and caller.ticket.has_expired(now_ms))
        ]
        for transport in over:
            if transport is not None:
                transport.abort()
        if over:
            logger.info(LogEvent("calls aborted: API key revoked or expired", calls=len(over)))


def _unauthorized() -> ApiError:
    message = "a valid API key is required: Authorization: Bearer KEY"
    return ApiError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})


AUTH = web.AppKey("auth", Auth)
