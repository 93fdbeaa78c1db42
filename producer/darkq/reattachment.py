"""A caller that asks again finds the job that it made: for clients that repeat a request by
themselves, without a key that says so.

A request that makes a job leaves a note under its digest: which job that was. Each caller that
waits for a job is in the job's set of callers, under a lease: the caller that made it, one that
came back, another with the same idempotency key. A caller that leaves keeps a lease for as long as
it may come back. When the last lease is over, no caller waits for the job any more, and it can be
cancelled.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from redis.asyncio import Redis

from darkq import scripts
from darkq.connection import speaking_darkq
from darkq.keys import JobKeys, reattachment, waiters
from darkq.scripts import Argument

NOTE_TTL_S = 600
"""Longer than any client goes on repeating a request."""

LEASE_S = 60.0
"""How long a caller counts that does not renew: that of a gateway which has died."""

_SET_TTL_MS = 1_200_000  # longer than any lease, and any time to come back in
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
        key = waiters(JobKeys.parse(held.job_id))
        async with speaking_darkq():
            return bool(await scripts.waiters_leave(self._redis, [key], [held.holder, _SET_TTL_MS]))

    async def _keep(self, held: Held, lease_s: float) -> bool:
        key = waiters(JobKeys.parse(held.job_id))
        args: list[Argument] = [held.holder, int(lease_s * 1000), _SET_TTL_MS]
        async with speaking_darkq():
            return bool(await scripts.waiters_keep(self._redis, [key], args))
