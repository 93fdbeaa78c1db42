"""Keeping leases alive, and hearing of jobs that are lost or to be cancelled.

There are leases on jobs, and on calls of upstreams.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from redis.exceptions import RedisError

from darkq.connection import brief
from darkq.logs import LogLine
from darkq_worker.attempt import Attempt
from darkq_worker.claims import Leases
from darkq_worker.counting import Counting
from darkq_worker.limits import Limits

logger = logging.getLogger("darkq.worker")

RENEWALS_PER_LEASE = 4


class Heartbeat:
    """Renews the leases of a worker's attempts four times per lease. `run()` is its one task."""

    def __init__(
        self,
        leases: Leases,
        limits: Limits,
        counting: Counting,
        attempts: Collection[Attempt],
        *,
        lease_s: float,
    ) -> None:
        self._leases = leases
        self._limits = limits
        self._counting = counting
        self._attempts = attempts
        self._interval_s = lease_s / RENEWALS_PER_LEASE
        self._now = asyncio.Event()

    def hurry(self) -> None:
        """Beat now: the word of a cancelled job may have been missed."""
        self._now.set()

    async def run(self) -> None:
        """Beat until cancelled. While Redis is away, try again at every beat."""
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            try:
                await self.beat()
            except (RedisError, OSError) as error:
                logger.warning(LogLine("heartbeat failed", error=brief(error)))
            else:
                await self._counting.report()

    async def beat(self) -> None:
        """Renew now. Raises what redis-py raises."""
        attempts = {attempt.claim: attempt for attempt in self._attempts}
        renewal = await self._leases.renew(list(attempts))
        for claim in renewal.lost:
            if attempts[claim].stop("lost"):  # else its settlement was quicker than our question
                job_id, attempt = claim.keys.public_id, claim.attempt
                logger.warning(LogLine("lease lost", job=job_id, attempt=attempt))
        for claim in renewal.cancel:
            attempts[claim].stop("cancelled")
        await self._limits.keep()
