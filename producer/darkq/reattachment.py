"""A caller that asks again finds the job that it made: for clients that repeat a request by
themselves, without a key that says so.

Who makes a job for a request leaves a note under the request's digest: the job, and who holds it,
a name for the one call that waits for it. A repeated request takes the note over. So the call that
was left behind can tell, some time later, whether anybody has come back for its job.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from redis.asyncio import Redis

from darkq.connection import speaking_darkq
from darkq.keys import JobKeys, reattachment

TTL_S = 600
"""Longer than any client goes on repeating a request."""

_HOLDER_BYTES = 8


class Held(NamedTuple):
    """A job that a call waits for, and the name of that call."""

    job_id: str
    holder: str


class Reattachments:
    """The notes of a Redis. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def hold(self, digest: str, job_id: str) -> Held:
        """Say that a request has made a job, or has come back for it."""
        held = Held(job_id, secrets.token_hex(_HOLDER_BYTES))
        async with speaking_darkq():
            await self._redis.set(reattachment(digest), " ".join(held), ex=TTL_S)
        return held

    async def find(self, digest: str) -> str | None:
        """Return the id of the job that a request made last."""
        note = await self._note(digest)
        return note.job_id if note else None

    async def is_taken_over(self, digest: str, held: Held) -> bool:
        """Tell whether another call waits for that job now."""
        note = await self._note(digest)
        return note is not None and note.job_id == held.job_id and note.holder != held.holder

    async def _note(self, digest: str) -> Held | None:
        async with speaking_darkq():
            note: bytes | None = await self._redis.get(reattachment(digest))
        job_id, _, holder = (note or b"").decode(errors="replace").partition(" ")
        return Held(JobKeys.parse(job_id).public_id, holder) if holder else None
