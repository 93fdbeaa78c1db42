"""Metrics and spans of attempts.

The span of an attempt (CONSUMER) is part of the trace of the producer that enqueued the job:

    enqueue ──► attempt ──► chat <model> ──► the upstream, if `sends_trace` is set

Attributes follow OpenTelemetry's conventions for messaging, if these have a name.

Metrics are numbers in memory. Each heartbeat adds to Redis what was counted since the last one, in
one call, or in none if nothing was counted. A killed worker loses the counts since its last
heartbeat. Nothing else is lost or counted twice: an update without a reply is sent again unchanged,
with the same number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.operate.stats import Report, add
from darkq.protocol.keys import PRIORITIES
from darkq.telemetry import metrics as m
from darkq.telemetry.tracing import TraceContext, mark_failed, messaging_attributes, tracer
from darkq_worker.attempts import settlement as ends
from darkq_worker.leases import Claim
from darkq_worker.outage_log import OutageLog
from darkq_worker.upstreams.base import Request
from darkq_worker.upstreams.traced import UNTRACED_CALL, CallSpan, trace_call
from darkq_worker.writing.attempt_log import AttemptLog, Budget

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


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

    def count_end(self, outcome: ends.Outcome, upstream: str) -> None:
        """Count a settled attempt. `upstream` is empty if none was called.

        A `Lost` one is counted by the worker that claimed the job since then.
        """
        upstream = upstream or m.NO_UPSTREAM
        match outcome:
            case ends.Completed():
                self._tally.count(m.JOBS_ENDED, "completed", upstream)
            case ends.Cancelled():
                self._tally.count(m.JOBS_ENDED, "cancelled", upstream)
            case ends.Failed(code):
                self._tally.count(m.JOBS_ENDED, "failed", upstream)
                self._tally.count(m.JOB_FAILURES, m.code_label(code), upstream)
            case ends.TryAgain(reason):
                self._tally.count(m.RETRIES, m.code_label(reason), upstream)
            case ends.HandBack():
                self._tally.count(m.RETRIES, "worker_shutdown", upstream)
            case ends.Deferred(upstream=asked):
                self._tally.count(m.JOBS_PUT_OFF, asked or m.NO_UPSTREAM)

    async def send(self) -> None:
        """Add the counts to those in Redis. What Redis does not accept is sent again next time."""
        async with self._one_at_a_time:
            report = self._unsent = self._unsent or self._next_report()
            if report is None:
                return
            try:
                await add(self._redis, self._worker_id, report)
            except (RedisError, OSError) as error:
                self._outage.record_failure(error)
            else:
                self._outage.record_success()
                self._unsent = None
                self._sent_chars = report.buffer_chars

    def _next_report(self) -> Report | None:
        chars, numbers = self._budget.spent, self._tally.take()
        if not numbers and chars == self._sent_chars:
            return None
        self._number += 1
        return Report(self._number, numbers, chars, self._budget.limit)


class AttemptSpan:
    """The span of an attempt; without a span it records nothing. Readers receive `traceparent`."""

    def __init__(self, span: Span | None = None, tracer: Tracer | None = None) -> None:
        self._span = span
        self._tracer = tracer
        self.traceparent = "" if span is None else TraceContext.from_span(span).traceparent

    def call(self, upstream: str, request: Request) -> AbstractContextManager[CallSpan]:
        """Return a context manager for the call of the upstream."""
        if self._span is None or self._tracer is None:
            return UNTRACED_CALL
        return trace_call(self._tracer, self._span, upstream, request)

    def record_end(self, outcome: ends.Outcome, log: AttemptLog) -> None:
        """Record how the attempt ended, after its settlement, and end the span."""
        if (span := self._span) is None:
            return
        span.set_attribute("darkq.outcome", str(outcome))
        span.set_attribute("darkq.chunks", log.chunks)
        span.set_attribute("darkq.chars", log.chars)
        match outcome:
            case ends.Failed(code):
                mark_failed(span, code)
            case ends.TryAgain(reason, delay_s):
                span.add_event("retry", {"darkq.reason": reason, "darkq.retry_in_s": delay_s})
                mark_failed(span, reason)
            case ends.Lost():
                span.add_event("lease lost")
                mark_failed(span, "lease_lost")
            case ends.Cancelled() | ends.HandBack() | ends.Deferred():
                span.add_event(str(outcome))
        span.end()


_UNTRACED = nullcontext(AttemptSpan())


def attempt_span(claim: Claim) -> AbstractContextManager[AttemptSpan]:
    """Return a context manager for an attempt, in the trace of its producer.

    Its span is the current one inside the block. `record_end` ends it, also after the block.
    """
    found = tracer()
    return _UNTRACED if found is None else _trace_attempt(found, claim)


@contextmanager
def _trace_attempt(tracer: Tracer, claim: Claim) -> Iterator[AttemptSpan]:
    from opentelemetry.trace import SpanKind, use_span

    span = tracer.start_span(
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
    with use_span(span, record_exception=False, set_status_on_exception=False):
        try:
            yield AttemptSpan(span, tracer)
        except Exception as error:  # a bug in the worker: `record_end` is never called
            mark_failed(span, type(error).__name__)
            span.end()
            raise
