"""Makes and checks tickets. The claims are signed with a secret that all processes share.

The secrets are those of `DARKQ_TICKET_SECRETS`: the first one signs, all verify. Without that
setting there is one, made once and kept in Redis. A process reads it from there at its first
ticket, and again after `SECRET_FRESH_S`: if it is deleted, all tickets end, and a new one is made.
"""

from __future__ import annotations

import secrets
import time

from msgspec import UNSET, UnsetType
from redis.asyncio import Redis

from darkq.errors import InvalidJob
from darkq.protocol.keys import TICKETS
from darkq.protocol.ticket import LIBRARY, MAX_TTL_S, Ticket, sign, verify
from darkq.redis.pool import speaking_darkq
from darkq.settings.parsing import parse_ticket_secrets
from darkq.settings.settings import Settings

SECRET_FRESH_S = 60.0
"""A process that keeps the secret of Redis in memory reads it again after this time."""


class Tickets:
    """The tickets of a deployment. With a configured secret, no method calls Redis."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._configured: tuple[bytes, ...] = ()
        if settings.ticket_secrets is not None:
            self._configured = parse_ticket_secrets(settings.ticket_secrets.get_secret_value())
        self._kept = b""
        self._read_at_s = 0.0

    async def make(
        self,
        object_id: str,
        *,
        ttl_s: float,
        cancel: bool,
        tenant: str | UnsetType | None = UNSET,
        maker: str = LIBRARY,
    ) -> tuple[Ticket, str]:
        """Make a ticket. Raises `InvalidJob` for its `ttl_s`, `RedisUnavailable`."""
        if not 0 < ttl_s <= MAX_TTL_S:
            raise InvalidJob("ttl_s", f"must be above 0 and at most {MAX_TTL_S:g}")
        expires_ms = int((time.time() + ttl_s) * 1000)
        ticket = Ticket(
            id=object_id, expires_ms=expires_ms, maker=maker, tenant=tenant, cancel=bool(cancel)
        )
        return ticket, sign(ticket, (await self._secrets())[0])

    async def make_for(
        self, object_id: str, *, ttl_s: float, cancel: bool, tenant: str | None
    ) -> str:
        """Return a ticket of the library; without a `tenant` it is valid for any tenant's object.

        Raises `InvalidJob`, `RedisUnavailable`.
        """
        owner = UNSET if tenant is None else tenant
        _, text = await self.make(object_id, ttl_s=ttl_s, cancel=cancel, tenant=owner)
        return text

    async def check(self, text: str) -> Ticket | None:
        """Return the claims of a ticket; None if it is forged or has expired.

        The caller checks its maker. Raises `RedisUnavailable`.
        """
        ticket = verify(text, await self._secrets())
        return None if ticket is None or ticket.has_expired(time.time() * 1000) else ticket

    async def _secrets(self) -> tuple[bytes, ...]:
        if self._configured:
            return self._configured
        now_s = time.monotonic()
        if not self._kept or now_s - self._read_at_s >= SECRET_FRESH_S:
            self._kept = await self._read_kept()
            self._read_at_s = now_s
        return (self._kept,)

    async def _read_kept(self) -> bytes:
        async with speaking_darkq():
            while True:
                kept: bytes | None = await self._redis.get(TICKETS)
                if kept:
                    return kept
                # NX: of several processes that begin together, one makes it.
                await self._redis.set(TICKETS, secrets.token_hex(32), nx=True)
