"""What a worker repeats: it renews leases and its health record, and reads drain requests.

There are leases of jobs, and of upstream calls. Jobs, the calls of each upstream, and the metrics
have a task each: while the server of one is unavailable, the others continue.

The health record is renewed regularly, whatever happens to the servers of the worker's jobs. Drain
requests are read after a message of their channel, and with each health check, in case a message
was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

from redis.asyncio import Redis

from darkq.operate.workers import Drain, read_drain
from darkq.telemetry.logging import LogEvent
from darkq_worker.attempts.running import Attempt
from darkq_worker.attempts.telemetry import WorkerMetrics
from darkq_worker.leases import Leases
from darkq_worker.limits.calls import Limits
from darkq_worker.outage_log import OutageLog

logger = logging.getLogger("darkq.worker")

RENEWALS_PER_LEASE = 4
_HEALTH_INTERVAL_S = 1.0


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


async def repeat_health_check(
    check: Callable[[], Awaitable[None]], draining: Draining, redis: Redis
) -> None:
    """Call arq's health check every second, which writes every ten, until cancelled."""
    outage = OutageLog("health check failed", "health check recovered")
    while True:
        try:
            await check()
            if draining.may_have_changed.is_set():
                await draining.read(redis)
            outage.record_success()
        except Exception as error:
            outage.record_failure(error)
            await asyncio.sleep(_HEALTH_INTERVAL_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(_HEALTH_INTERVAL_S):
                await draining.may_have_changed.wait()


class Draining:
    """The drain request of one worker; the sink of the channel that announces changes.

    `leave` starts the shutdown; its argument says whether running jobs may take as long as they
    need. `wake_up` wakes the worker's loop.
    """

    def __init__(
        self, worker_id: str, *, leave: Callable[[bool], None], wake_up: asyncio.Event
    ) -> None:
        self._worker_id = worker_id
        self._leave = leave
        self._wake_up = wake_up
        self._request: Drain | None = None
        self._leaves = False
        self._messages = self._messages_read = 0
        self.may_have_changed = asyncio.Event()

    def deliver(self, message: bytes) -> None:
        """Note that a drain request is pending: stop claiming until it has been read."""
        self._messages += 1
        self.may_have_changed.set()

    def gap(self) -> None:
        """Note that a message may have been lost."""
        self.may_have_changed.set()

    @property
    def is_idle(self) -> bool:
        """True if the worker must not claim now."""
        return self._messages_read < self._messages or self._request is not None

    async def read(self, redis: Redis) -> None:
        """Read the drain request, and obey it. Raises what redis-py raises."""
        self.may_have_changed.clear()
        messages = self._messages  # one that arrives during the read is not covered by it
        try:
            request = await read_drain(redis, self._worker_id)
        except BaseException:
            self.may_have_changed.set()
            raise
        self._messages_read = messages
        self._wake_up.set()
        if request == self._request or self._leaves:
            return
        self._request = request
        if request is None:
            logger.info(LogEvent("drain withdrawn"))
            return
        exits = not request.stay
        logger.info(LogEvent("drain requested", by=request.by or "?", exits=exits))
        if exits:
            self._leaves = True
            self._leave(request.patient)
