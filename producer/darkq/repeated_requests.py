"""A request that is repeated makes the same jobs, or the same batch, and not others beside them.

A request has a seed, 128 random bits, and the ids of what it makes follow from it. The seed is
noted before anything is made, under the request's idempotency key; without one under its body, for
clients that repeat a request by themselves and say so. A repetition finds the seed, and
therefore makes the same ids: what is there stays as it is, what is missing is made.
"""

from __future__ import annotations

import hashlib
import secrets

from redis.asyncio import Redis

from darkq.connection import speaking_darkq
from darkq.errors import IdempotencyConflict
from darkq.keys import request_seed
from darkq.orders import check_key

BODY_TTL_S = 600
"""Longer than any client goes on repeating a request."""


def new_seed() -> str:
    """Return an unguessable seed: 32 hexadecimal digits."""
    return secrets.token_hex(16)


class RepeatedRequests:
    """The notes of a Redis. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: Redis, *, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl_s * 1000)

    async def by_key(self, key: str, *, tenant: str | None, path: str, body: bytes) -> str:
        """Return the seed of the request that came first with this key of the tenant.

        Raises `InvalidJob` for a key that can be none, `IdempotencyConflict` when the first
        request had another body.
        """
        check_key(key)
        name = request_seed(_digest(tenant, path, b"key", key.encode()))
        wanted, seed = hashlib.sha256(body).hexdigest(), new_seed()
        async with speaking_darkq():
            made = await self._redis.set(name, f"{wanted} {seed}", px=self._ttl_ms, nx=True)
            note: bytes | None = None if made else await self._redis.get(name)
        if note is None:
            return seed
        digest, _, known = note.decode().partition(" ")
        if digest != wanted:
            raise IdempotencyConflict(key, known)
        return known

    async def by_body(self, *, tenant: str | None, path: str, body: bytes, again: bool) -> str:
        """Return the latest seed of this body; a new one unless the request comes `again`."""
        name = request_seed(_digest(tenant, path, b"body", body))
        async with speaking_darkq():
            note: bytes | None = await self._redis.get(name) if again else None
            if note is not None:
                return note.decode()
            seed = new_seed()
            await self._redis.set(name, seed, ex=BODY_TTL_S)
        return seed


def _digest(tenant: str | None, path: str, *parts: bytes) -> str:
    digest = hashlib.sha256(b"open" if tenant is None else b"tenant")
    for part in ((tenant or "").encode(), path.encode(), *parts):
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
