"""Metrics and spans of attempts.

The span of an attempt (CONSUMER) is part of the trace of the producer that enqueued the job:

    enqueue ──► attempt ──► chat <model> ──► the upstream, if `sends_trace` is set

Attributes follow OpenTelemetry's conventions for messaging, if these have a name. Without tracing,
spans are null objects.

Metrics are numbers in memory. Each heartbeat adds to Redis what was counted since the last one, in
one call, or in none if nothing was counted. A killed worker loses the counts since its last
heartbeat. Nothing else is lost or counted twice: an update without a reply is sent again unchanged,
with the same number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.operate.stats import Report, add
from darkq.protocol.keys import PRIORITIES
from darkq.telemetry import metrics as m
from darkq.telemetry.tracing import (
    SpanScope,
    TraceContext,
    mark_failed,
    messaging_attributes,
    tracer,
)
from darkq_worker.attempts.settlement import (
    Cancelled,
    Completed,
    Deferred,
    Failed,
    HandBack,
    Lost,
    Outcome,
    TryAgain,
)
from darkq_worker.leases import Claim
from darkq_worker.outage_log import OutageLog
from darkq_worker.upstreams.base import Request
from darkq_worker.upstreams.traced import UNTRACED_CALL, CallSpan, TracedCall
from darkq_worker.writing.attempt_log import AttemptLog, Budget

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class WorkerMetrics:
    """Counts claims and ends of attempts in a tally, and sends the tally to Redis."""

    def __init__(self, redis: Redis, worker_id: str, tally: m.Tally, budget: Budget) -> None:
        self._redis = redis
        self._worker_id = worker_id
        self._tally = tally
        self._budget = budget
        self._number = 0
        self._unsent: Report | None = None
        self._sent_chars = 0
        self._outage = OutageLog("metrics update failed", "metrics update recovered")
        self._one_at_a_time = asyncio.Lock()

    def count_claims(self, claims: Iterable[Claim]) -> None:
        """Count claimed jobs."""
        for claim in claims:
            self._tally.observe(m.PICKUP, claim.waited_s, PRIORITIES[claim.priority_number])
            if claim.lease_lost:
                self._tally.count(m.LEASES_LOST)

    def count_end(self, outcome: Outcome, upstream: str, ours: bool) -> None:
        """Count a settled attempt. `upstream` is empty if none was called."""
        if not ours:  # the worker that claimed the job since then counts it
            return
        upstream = upstream or m.NO_UPSTREAM
        match outcome:
            case Completed():
                self._tally.count(m.JOBS_ENDED, "completed", upstream)
            case Cancelled():
                self._tally.count(m.JOBS_ENDED, "cancelled", upstream)
            case Failed(code):
                self._tally.count(m.JOBS_ENDED, "failed", upstream)
                self._tally.count(m.JOB_FAILURES, m.code_label(code), upstream)
            case TryAgain(reason):
                self._tally.count(m.RETRIES, m.code_label(reason), upstream)
            case HandBack():
                self._tally.count(m.RETRIES, "worker_shutdown", upstream)
            case Deferred(upstream=asked):
                self._tally.count(m.JOBS_PUT_OFF, asked or m.NO_UPSTREAM)

    async def send(self) -> None:
        """Add the counts to those in Redis. What Redis does not accept is sent again next time."""
        async with self._one_at_a_time:
            report = self._next_report()
            if report is None:
                return
            self._unsent = report
            try:
                await add(self._redis, self._worker_id, report)
            except (RedisError, OSError) as error:
                self._outage.record_failure(error)
            else:
                self._outage.record_success()
                self._unsent = None
                self._sent_chars = report.buffer_chars

    def _next_report(self) -> Report | None:
        chars = self._budget.spent
        if self._unsent is not None:
            return self._unsent
        numbers = self._tally.take()
        if not numbers and chars == self._sent_chars:
            return None
        self._number += 1
        return Report(self._number, numbers, chars, self._budget.limit)


class AttemptSpan(SpanScope):
    """The span of an attempt, current inside its block; this class is the null object.

    `record_end` may be called after the block. Readers receive `traceparent`.
    """

    traceparent = ""

    def call(self, upstream: str, request: Request) -> CallSpan:
        """Return a context manager for the call of the upstream."""
        return UNTRACED_CALL

    def record_end(self, outcome: Outcome, log: AttemptLog) -> None:
        """Record how the attempt ended, after its settlement."""


_UNTRACED = AttemptSpan()


def attempt_span(claim: Claim) -> AttemptSpan:
    """Return a context manager for an attempt, in the trace of its producer."""
    found = tracer()
    return _UNTRACED if found is None else _TracedAttempt(found, claim)


class _TracedAttempt(AttemptSpan):
    def __init__(self, tracer: Tracer, claim: Claim) -> None:
        from opentelemetry.trace import SpanKind, use_span

        self._tracer = tracer
        self._span = tracer.start_span(
            "attempt",
            context=TraceContext.from_record(claim.record).context(),
            kind=SpanKind.CONSUMER,
            attributes={
                **messaging_attributes("attempt", "process"),
                "messaging.destination.name": PRIORITIES[claim.priority_number],
                "messaging.destination.partition.id": str(claim.keys.partition),
                "messaging.message.id": claim.keys.public_id,
                "darkq.attempt": claim.attempt,
                "darkq.try": claim.tries_burnt + 1,
                "darkq.waited_s": claim.waited_s,
                "darkq.worker": claim.token.rpartition(":")[0],
            },
        )
        self.traceparent = TraceContext.from_span(self._span).traceparent
        self._current: AbstractContextManager[object] = use_span(
            self._span, record_exception=False, set_status_on_exception=False
        )

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._current.__exit__(kind, error, traceback)
        if isinstance(error, Exception):  # a bug in the worker: `record_end` is never called
            mark_failed(self._span, type(error).__name__)
            self._span.end()

    def call(self, upstream: str, request: Request) -> CallSpan:
        return TracedCall(self._tracer, self._span, upstream, request)

    def record_end(self, outcome: Outcome, log: AttemptLog) -> None:
        span = self._span
        span.set_attribute("darkq.outcome", str(outcome))
        span.set_attribute("darkq.chunks", log.chunks)
        span.set_attribute("darkq.chars", log.chars)
        match outcome:
            case Failed(code):
                mark_failed(span, code)
            case TryAgain(reason, delay_s):
                span.add_event("retry", {"darkq.reason": reason, "darkq.retry_in_s": delay_s})
                mark_failed(span, reason)
            case Lost():
                span.add_event("lease lost")
                mark_failed(span, "lease_lost")
            case Cancelled() | HandBack() | Deferred():
                span.add_event(str(outcome))
        span.end()
