"""Keeping leases alive, and hearing of jobs that are lost or to be cancelled.

There are leases on jobs, and on calls of upstreams. Jobs have a task of their own, and so have the
calls of each upstream and the counts: where one waits for a server that is away, the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from darkq.telemetry.logging import LogEvent
from darkq_worker.attempts.attempt import Attempt
from darkq_worker.attempts.metrics import Counting
from darkq_worker.leases import Leases
from darkq_worker.limits.call import Limits
from darkq_worker.outage_log import Trouble

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
        on_failure: Callable[[int], None],
    ) -> None:
        """`on_failure` hears of a partition whose leases could not be renewed."""
        self._leases = leases
        self._limits = limits
        self._counting = counting
        self._attempts = attempts
        self._interval_s = lease_s / RENEWALS_PER_LEASE
        self._on_failure = on_failure
        self._now = asyncio.Event()

    def hurry(self) -> None:
        """Beat now: the word of a cancelled job may have been missed."""
        self._now.set()

    async def run(self) -> None:
        """Beat until cancelled. While Redis is away, try again at every beat."""
        never = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat("jobs", self.beat, self._now), name="darkq-renew-jobs")
            for renew in self._limits.renewals:
                tasks.create_task(self._repeat("calls", renew, never), name="darkq-renew-calls")
            tasks.create_task(
                self._repeat("counts", self._counting.report, never), name="darkq-report"
            )

    async def beat(self) -> None:
        """Renew all leases on jobs now. Raises what redis-py raises.

        A partition that cannot be reached keeps no other back.
        """
        failures: list[Exception] = []

        async def beat_in(partition: int) -> None:
            try:
                await self.beat_in(partition)
            except Exception as error:
                failures.append(error)
                self._on_failure(partition)

        async with asyncio.TaskGroup() as tasks:
            for partition in {attempt.claim.keys.partition for attempt in self._attempts}:
                tasks.create_task(beat_in(partition))
        if failures:
            raise failures[0]

    async def beat_in(self, partition: int) -> None:
        """Renew those in one partition. Raises what redis-py raises."""
        attempts = {
            attempt.claim: attempt
            for attempt in self._attempts
            if attempt.claim.keys.partition == partition
        }
        renewal = await self._leases.renew_in(partition, list(attempts))
        for claim in renewal.lost:
            if attempts[claim].stop("lost"):  # else its settlement was quicker than our question
                job_id, attempt = claim.keys.public_id, claim.attempt
                logger.warning(LogEvent("lease lost", job=job_id, attempt=attempt))
        for claim in renewal.cancel:
            attempts[claim].stop("cancelled")

    async def _repeat(
        self, what: str, do: Callable[[], Awaitable[None]], now: asyncio.Event
    ) -> None:
        trouble = Trouble(f"heartbeat of {what} failed", f"heartbeat of {what} works again")
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await now.wait()
            except TimeoutError:
                pass
            now.clear()
            try:
                await do()
            except Exception as error:  # the next beat may be better, and no other task ends
                trouble.met(error)
            else:
                trouble.over()
