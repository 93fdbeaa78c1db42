"""What a worker counts, and how all come to know of it: with its heartbeats.

Counting is a number in memory. What has come together since the last heartbeat goes to Redis in
one call, and in none when nothing has. So a worker that is killed takes with it what it has
counted since its last heartbeat, and nothing else is ever lost or counted twice: a report whose
reply was lost is sent again as it was, with its number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.operate.stats import Report, add
from darkq.protocol.keys import PRIORITIES
from darkq.telemetry import metrics as m
from darkq_worker.attempts import outcome as oc
from darkq_worker.attempts.outcome import Outcome
from darkq_worker.leases import Claim
from darkq_worker.outage_log import Trouble
from darkq_worker.writing.attempt_log import Budget


class Counting:
    """Counts claims and endings into a tally, and reports the tally."""

    def __init__(self, redis: Redis, worker_id: str, tally: m.Tally, budget: Budget) -> None:
        self._redis = redis
        self._worker_id = worker_id
        self._tally = tally
        self._budget = budget
        self._number = 0
        self._unsent: Report | None = None
        self._told_chars = 0
        self._trouble = Trouble("cannot report counts, will keep trying", "counts are reported")
        self._one_at_a_time = asyncio.Lock()

    def claimed(self, claims: Iterable[Claim]) -> None:
        """Jobs were claimed."""
        for claim in claims:
            self._tally.observe(m.PICKUP, claim.waited_s, PRIORITIES[claim.priority_number])
            if claim.lease_lost:
                self._tally.count(m.LEASES_LOST)

    def settled(self, outcome: Outcome, upstream: str, ours: asyncio.Future[bool]) -> None:
        """Redis knows how an attempt has ended; the upstream is empty where it came to none."""
        if not ours.result():  # whoever has claimed the job since counts that
            return
        upstream = upstream or m.NO_UPSTREAM
        match outcome:
            case oc.Completed():
                self._tally.count(m.JOBS_ENDED, "completed", upstream)
            case oc.Cancelled():
                self._tally.count(m.JOBS_ENDED, "cancelled", upstream)
            case oc.Failed(code):
                self._tally.count(m.JOBS_ENDED, "failed", upstream)
                self._tally.count(m.JOB_FAILURES, m.code_label(code), upstream)
            case oc.TryAgain(reason):
                self._tally.count(m.RETRIES, m.code_label(reason), upstream)
            case oc.HandBack():
                self._tally.count(m.RETRIES, "worker_shutdown", upstream)
            case oc.Deferred(upstream=asked):
                self._tally.count(m.JOBS_PUT_OFF, asked or m.NO_UPSTREAM)

    async def report(self) -> None:
        """Tell what has been counted. What Redis does not take now it is told the next time."""
        async with self._one_at_a_time:
            report = self._next()
            if report is None:
                return
            self._unsent = report
            try:
                await add(self._redis, self._worker_id, report)
            except (RedisError, OSError) as error:
                self._trouble.met(error)
            else:
                self._trouble.over()
                self._unsent = None
                self._told_chars = report.buffer_chars

    def _next(self) -> Report | None:
        chars = self._budget.spent
        if self._unsent is not None:
            return self._unsent
        numbers = self._tally.take()
        if not numbers and chars == self._told_chars:
            return None
        self._number += 1
        return Report(self._number, numbers, chars, self._budget.limit)
