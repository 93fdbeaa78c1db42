"""A repeated request finds the jobs that it has made, instead of making others.

`Reattachments` is for clients that wait for a job and repeat a request without an idempotency key.
A request stores the id of its job under its digest. Each caller that waits for a job is in the
job's set of callers, under a lease: the one that made it, one that came back, another with the same
idempotency key. A caller that disconnects keeps a lease for as long as it may come back. When the
last lease has expired, no caller waits for the job, and it can be cancelled.

`RepeatedRequests` is for requests that make several jobs, or a batch. A request gets a seed of 128
random bits, from which the ids of its jobs are derived. The seed is stored first, under the
idempotency key, or without one under the body, for clients that mark their retries. A repetition
reads the seed and derives the same ids: existing jobs stay unchanged, missing ones are made.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple

from redis.asyncio import Redis

from darkq.errors import IdempotencyConflict
from darkq.protocol.job import check_idempotency_key
from darkq.protocol.keys import JobKeys, chat_job, reattachment, request_seed
from darkq.redis import scripts
from darkq.redis.pool import speaking_darkq

NOTE_TTL_S = 600
"""Longer than any client repeats a request."""

LEASE_S = 60.0
"""After this time a caller of a gateway that has crashed no longer counts."""

_SET_TTL_S = 1200.0  # longer than any lease, and any grace
_HOLDER_BYTES = 8


class Held(NamedTuple):
    """A job for which a call waits, and the name of that call."""

    job_id: str
    holder: str


class Reattachments:
    """The callers that wait for jobs. Every method raises `RedisUnavailable`."""

    lease_s = LEASE_S

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def hold(self, digest: str, job_id: str) -> Held | None:
        """Add a caller that waits for a job, which it has made or found.

        Returns None if the last caller has left and the job is being cancelled: make another one.
        """
        held = Held(job_id, secrets.token_hex(_HOLDER_BYTES))
        if not await self._keep(held, LEASE_S):
            return None
        async with speaking_darkq():
            await self._redis.set(reattachment(digest), " ".join(held), ex=NOTE_TTL_S)
        return held

    async def find(self, digest: str) -> str | None:
        """Return the id of the latest job of a request."""
        async with speaking_darkq():
            note: bytes | None = await self._redis.get(reattachment(digest))
        job_id, _, holder = (note or b"").decode(errors="replace").partition(" ")
        return JobKeys.parse(job_id).public_id if holder else None

    async def renew(self, held: Held) -> None:
        """Renew the lease of a caller; due at least every `LEASE_S`."""
        await self._keep(held, LEASE_S)

    async def leave(self, held: Held, grace_s: float) -> None:
        """Note that a caller has left, and may come back within the grace."""
        await self._keep(held, grace_s)

    async def is_last(self, held: Held) -> bool:
        """Remove a caller that did not come back; return True if no other one waits for the job.

        From then on `hold` returns None for this job.
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


class ChatJob(NamedTuple):
    """A chat's latest job."""

    job_id: str
    begun: bytes
    """What its message has before the job's events, as frames; possibly nothing."""


class Chats:
    """The latest job of each chat of the AI SDK. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: Redis, *, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl_s * 1000)

    async def note(self, digest: str, job_id: str, begun: bytes = b"") -> None:
        """Store a chat's latest job, and what its message has before the job's events."""
        async with speaking_darkq():
            value = job_id.encode() + b" " + begun if begun else job_id
            await self._redis.set(chat_job(digest), value, px=self._ttl_ms)

    async def find(self, digest: str) -> ChatJob | None:
        """Return a chat's latest job."""
        async with speaking_darkq():
            value: bytes | None = await self._redis.get(chat_job(digest))
        job_id, _, begun = (value or b"").partition(b" ")
        return ChatJob(job_id.decode(), begun) if job_id else None


def new_seed() -> str:
    """Return an unguessable seed: 32 hexadecimal digits."""
    return secrets.token_hex(16)


class RepeatedRequests:
    """The seeds of requests. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: Redis, *, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl_s * 1000)

    async def by_key(self, key: str, *, tenant: str | None, path: str, body: bytes) -> str:
        """Return the seed of the tenant's first request with this key.

        Raises `InvalidJob` for an invalid key, and `IdempotencyConflict` if the first request had
        another body.
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
        """Return a new seed, or the latest one of this body if the request comes `again`."""
        name = request_seed(request_digest(tenant, path, b"body", body))
        async with speaking_darkq():
            note: bytes | None = await self._redis.get(name) if again else None
            if note is not None:
                return note.decode()
            seed = new_seed()
            await self._redis.set(name, seed, ex=NOTE_TTL_S)
        return seed


def request_digest(tenant: str | None, path: str, *parts: bytes) -> str:
    """Return the digest of a request. Lengths precede the parts, so no two requests share one."""
    digest = hashlib.sha256(b"open" if tenant is None else b"tenant")
    for part in ((tenant or "").encode(), path.encode(), *parts):
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
