"""The span of an attempt (CONSUMER), in the trace of whoever has enqueued the job.

    enqueue ──► attempt ──► chat <model> ──► the upstream, if it is sent there

Attributes follow OpenTelemetry's conventions for messaging where they have a word. A worker that
does not trace gets stand-ins that do nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from darkq.protocol.keys import PRIORITIES
from darkq.telemetry.tracing import (
    SpanScope,
    TraceContext,
    mark_failed,
    messaging_attributes,
    tracer,
)
from darkq_worker.attempts import outcome as oc
from darkq_worker.attempts.outcome import Outcome
from darkq_worker.leases import Claim
from darkq_worker.upstreams.base import Request
from darkq_worker.upstreams.traced import UNTRACED_CALL, CallSpan, TracedCall
from darkq_worker.writing.attempt_log import AttemptLog

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class AttemptSpan(SpanScope):
    """An attempt, current inside its block. `ended` may come after that. This one is not traced.

    `traceparent` is told to readers.
    """

    traceparent = ""

    def call(self, upstream: str, request: Request) -> CallSpan:
        """Return a context manager for the call of the upstream."""
        return UNTRACED_CALL

    def ended(self, outcome: Outcome, log: AttemptLog) -> None:
        """Say how the attempt ended, which is settled by now."""


UNTRACED = AttemptSpan()


def attempt_span(claim: Claim) -> AttemptSpan:
    """Return a context manager for an attempt, in the trace of whoever has enqueued the job."""
    found = tracer()
    return UNTRACED if found is None else _TracedAttempt(found, claim)


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
        if isinstance(error, Exception):
            mark_failed(self._span, type(error).__name__)
            self._span.end()

    def call(self, upstream: str, request: Request) -> CallSpan:
        return TracedCall(self._tracer, self._span, upstream, request)

    def ended(self, outcome: Outcome, log: AttemptLog) -> None:
        span = self._span
        span.set_attribute("darkq.outcome", str(outcome))
        span.set_attribute("darkq.chunks", log.chunks)
        span.set_attribute("darkq.chars", log.chars)
        match outcome:
            case oc.Failed(code):
                mark_failed(span, code)
            case oc.TryAgain(reason, delay_s):
                span.add_event("retry", {"darkq.reason": reason, "darkq.retry_in_s": delay_s})
                mark_failed(span, reason)
            case oc.Lost():
                span.add_event("lease lost")
                mark_failed(span, "lease_lost")
            case oc.Cancelled() | oc.HandBack() | oc.Deferred():
                span.add_event(str(outcome))
        span.end()
