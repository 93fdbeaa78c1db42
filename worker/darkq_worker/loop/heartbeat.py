"""The heartbeat: renews leases, and finds jobs that were lost or cancelled.

There are leases of jobs, and of upstream calls. Jobs, the calls of each upstream, and the metrics
have a task each: while the server of one is unavailable, the others continue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

from darkq.telemetry.logging import LogEvent
from darkq_worker.attempts.running import Attempt
from darkq_worker.attempts.telemetry import WorkerMetrics
from darkq_worker.leases import Leases
from darkq_worker.limits.calls import Limits
from darkq_worker.outage_log import OutageLog

logger = logging.getLogger("darkq.worker")

RENEWALS_PER_LEASE = 4


class Heartbeat:
    """Renews the leases of a worker four times per lease. `run()` is its one task."""

    def __init__(
        self,
        leases: Leases,
        limits: Limits,
        metrics: WorkerMetrics,
        attempts: Collection[Attempt],
        *,
        lease_s: float,
        on_failure: Callable[[int], None],
    ) -> None:
        """`on_failure` is called with a partition whose leases could not be renewed."""
        self._leases = leases
        self._limits = limits
        self._metrics = metrics
        self._attempts = attempts
        self._interval_s = lease_s / RENEWALS_PER_LEASE
        self._on_failure = on_failure
        self._now = asyncio.Event()

    def hurry(self) -> None:
        """Renew now: the message about a cancelled job may have been lost."""
        self._now.set()

    async def run(self) -> None:
        """Renew until cancelled. While Redis is unavailable, retry at every beat."""
        never = asyncio.Event()
        beats = [
            ("jobs", self.renew, self._now),
            *(("calls", renew, never) for renew in self._limits.renewals),
            ("metrics", self._metrics.send, never),
        ]
        async with asyncio.TaskGroup() as tasks:
            for part, beat, now in beats:
                tasks.create_task(self._repeat(part, beat, now), name=f"darkq-beat-{part}")

    async def renew(self) -> None:
        """Renew all leases of jobs, concurrently per partition. Raises what redis-py raises."""
        failures: list[Exception] = []

        async def renew_in(partition: int) -> None:
            try:
                await self.renew_in(partition)
            except Exception as error:
                failures.append(error)
                self._on_failure(partition)

        async with asyncio.TaskGroup() as tasks:
            for partition in {attempt.claim.keys.partition for attempt in self._attempts}:
                tasks.create_task(renew_in(partition))
        if failures:
            raise failures[0]

    async def renew_in(self, partition: int) -> None:
        """Renew the leases in one partition. Raises what redis-py raises."""
        attempts = {
            attempt.claim: attempt
            for attempt in self._attempts
            if attempt.claim.keys.partition == partition
        }
        renewal = await self._leases.renew_in(partition, list(attempts))
        for claim in renewal.lost:
            if attempts[claim].stop("lost"):  # otherwise it was settled before the renewal
                job_id, attempt = claim.keys.public_id, claim.attempt
                logger.warning(LogEvent("lease lost", job=job_id, attempt=attempt))
        for claim in renewal.cancel:
            attempts[claim].stop("cancelled")

    async def _repeat(
        self, part: str, beat: Callable[[], Awaitable[None]], now: asyncio.Event
    ) -> None:
        outage = OutageLog("heartbeat failed", "heartbeat recovered", part=part)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await now.wait()
            now.clear()
            try:
                await beat()
            except Exception as error:  # retried at the next beat; other tasks must not end
                outage.record_failure(error)
            else:
                outage.record_success()
