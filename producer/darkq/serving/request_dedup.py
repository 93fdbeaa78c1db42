"""A caller that asks again finds the job that it made: for clients that repeat a request by
themselves, without a key that says so.

A request that makes a job leaves a note under its digest: which job that was. Each caller that
waits for a job is in the job's set of callers, under a lease: the caller that made it, one that
came back, another with the same idempotency key. A caller that leaves keeps a lease for as long as
it may come back. When the last lease is over, no caller waits for the job any more, and it can be
cancelled.

A request that is repeated makes the same jobs, or the same batch, and not others beside them.

A request has a seed, 128 random bits, and the ids of what it makes follow from it. The seed is
noted before anything is made, under the request's idempotency key; without one under its body, for
clients that repeat a request by themselves and say so. A repetition finds the seed, and
therefore makes the same ids: what is there stays as it is, what is missing is made.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple

from redis.asyncio import Redis

from darkq.errors import IdempotencyConflict
from darkq.protocol.job import check_idempotency_key
from darkq.protocol.keys import JobKeys, reattachment, request_seed
from darkq.redis import scripts
from darkq.redis.pool import speaking_darkq

NOTE_TTL_S = 600
"""Longer than any client goes on repeating a request."""

LEASE_S = 60.0
"""How long a caller counts that does not renew: that of a gateway which has died."""

_SET_TTL_S = 1200.0  # longer than any lease, and any time to come back in
_HOLDER_BYTES = 8


class Held(NamedTuple):
    """A job that a call waits for, and the name of that call."""

    job_id: str
    holder: str


class Reattachments:
    """Who waits for which job. Every method raises `RedisUnavailable`."""

    lease_s = LEASE_S

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def hold(self, digest: str, job_id: str) -> Held | None:
        """Say that a request has made a job or has come back for it, and waits.

        None: the last caller has stayed away and the job is to be cancelled; make another one.
        """
        held = Held(job_id, secrets.token_hex(_HOLDER_BYTES))
        if not await self._keep(held, LEASE_S):
            return None
        async with speaking_darkq():
            await self._redis.set(reattachment(digest), " ".join(held), ex=NOTE_TTL_S)
        return held

    async def find(self, digest: str) -> str | None:
        """Return the id of the job that a request made last."""
        async with speaking_darkq():
            note: bytes | None = await self._redis.get(reattachment(digest))
        job_id, _, holder = (note or b"").decode(errors="replace").partition(" ")
        return JobKeys.parse(job_id).public_id if holder else None

    async def renew(self, held: Held) -> None:
        """Say that a call still waits: at least every `LEASE_S`."""
        await self._keep(held, LEASE_S)

    async def leave(self, held: Held, grace_s: float) -> None:
        """Say that a caller has left, and may come back within the grace."""
        await self._keep(held, grace_s)

    async def is_last(self, held: Held) -> bool:
        """Tell whether no caller waits for the job any more, now that this caller has stayed away.

        `hold` tells a caller that comes later.
        """
        keys = JobKeys.parse(held.job_id)
        async with speaking_darkq():
            return await scripts.waiter_leave(self._redis, keys, held.holder, ttl_s=_SET_TTL_S)

    async def _keep(self, held: Held, lease_s: float) -> bool:
        keys = JobKeys.parse(held.job_id)
        async with speaking_darkq():
            return await scripts.waiter_keep(
                self._redis, keys, held.holder, lease_s=lease_s, ttl_s=_SET_TTL_S
            )


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
        check_idempotency_key(key)
        name = request_seed(request_digest(tenant, path, b"key", key.encode()))
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
        name = request_seed(request_digest(tenant, path, b"body", body))
        async with speaking_darkq():
            note: bytes | None = await self._redis.get(name) if again else None
            if note is not None:
                return note.decode()
            seed = new_seed()
            await self._redis.set(name, seed, ex=BODY_TTL_S)
        return seed


def request_digest(tenant: str | None, path: str, *parts: bytes) -> str:
    """Return a digest of a request: equal for the same tenant, path and parts."""
    digest = hashlib.sha256(b"open" if tenant is None else b"tenant")
    for part in ((tenant or "").encode(), path.encode(), *parts):
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
