"""OpenTelemetry spans of the library, and the trace context in a job's record.

    enqueue ──traceparent, in the job's record──► attempt ──in its `started` event──► tail

This module does not import OpenTelemetry. A program that traces has imported it and has set a
tracer provider. In other programs `tracer()` is None, and tracing costs nothing else. No span
contains a prompt, a text or the message of an exception.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Tracer

_MAX_TRACESTATE_CHARS = 512
_IDS = r"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT = re.compile(rf"(?!ff)[0-9a-f]{{2}}-{_IDS}")
_MEMBER = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_TRACESTATE = re.compile(f"{_MEMBER}(,{_MEMBER}){{0,31}}")


class TraceContext(NamedTuple):
    """The W3C context of a span; empty if there is none."""

    traceparent: str = ""
    tracestate: str = ""

    @classmethod
    def parse(cls, traceparent: object, tracestate: object = "") -> TraceContext:
        """Return untrusted input as a context, or `NO_CONTEXT` if it is invalid or too long."""
        if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent):
            return NO_CONTEXT
        usable = isinstance(tracestate, str) and len(tracestate) <= _MAX_TRACESTATE_CHARS
        if usable and _TRACESTATE.fullmatch(str(tracestate)):
            return cls(traceparent, str(tracestate))
        return cls(traceparent)

    @classmethod
    def from_record(cls, record: bytes) -> TraceContext:
        """Return the context in a job's record, or `NO_CONTEXT`, also for an invalid record."""
        try:
            found = _in_record.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return NO_CONTEXT
        return cls.parse(found.traceparent, found.tracestate)

    @classmethod
    def from_span(cls, span: Span) -> TraceContext:
        """Return the context of a span, for another process."""
        context = span.get_span_context()
        if not context.is_valid:
            return NO_CONTEXT
        ids = f"{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return cls.parse(f"00-{ids}", context.trace_state.to_header())

    def span_context(self) -> SpanContext | None:
        """Return OpenTelemetry's form of it. Requires OpenTelemetry."""
        from opentelemetry import trace

        if not self.traceparent:
            return None
        _, trace_id, span_id, flags = self.traceparent.split("-")
        state = trace.TraceState.from_header([self.tracestate]) if self.tracestate else None
        return trace.SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(int(flags, 16)),
            trace_state=state,
        )

    def context(self) -> Context | None:
        """Return it as a parent; None, which means the current context, if it is empty."""
        from opentelemetry import trace

        remote = self.span_context()
        return trace.set_span_in_context(trace.NonRecordingSpan(remote)) if remote else None


class _InRecord(msgspec.Struct):
    traceparent: Any = ""
    tracestate: Any = ""


NO_CONTEXT = TraceContext()
_in_record = msgspec.json.Decoder(_InRecord)
_last: tuple[object, Any] = (None, None)


def tracer() -> Tracer | None:
    """Return darkq's tracer, or None if the program has no tracer provider."""
    global _last  # noqa: PLW0603  a cache: the SDK's `get_tracer` is slow
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not hasattr(trace, "__all__"):  # still being imported by another thread
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):  # the API's default: no provider is set
        return None
    known, made = _last
    if known is not provider:
        made = provider.get_tracer("darkq")
        _last = (provider, made)
    return made  # type: ignore[no-any-return]


def current_ids() -> dict[str, str]:
    """Return the ids of the current span, for a log record."""
    if tracer() is None:
        return {}
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def mark_failed(span: Span, code: str) -> None:
    """Set a span's status to error, with a code and no message."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR)


def messaging_attributes(
    operation: str, kind: Literal["send", "receive", "process"]
) -> dict[str, str]:
    """Return the attributes of all messaging spans."""
    return {
        "messaging.system": "darkq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }


class EnqueueSpan:
    """The span of storing jobs, if the program traces.

    `carried` is the context for the records of the jobs.
    """

    def __init__(self, span: Span | None = None) -> None:
        self._span = span
        self.carried = NO_CONTEXT if span is None else TraceContext.from_span(span)

    def stored(self, job_id: str, *, duplicate: bool) -> None:
        """Record the id of the stored job."""
        if self._span is not None:
            self._span.set_attribute("messaging.message.id", job_id)
            if duplicate:
                self._span.set_attribute("darkq.duplicate", True)


_UNTRACED = nullcontext(EnqueueSpan())


def enqueue_span(
    queue: str | None = None, count: int | None = None
) -> AbstractContextManager[EnqueueSpan]:
    """Return the PRODUCER span of storing a job, or `count` jobs, as a context manager."""
    found = tracer()
    return _UNTRACED if found is None else _trace_enqueueing(found, queue, count)


@contextmanager
def _trace_enqueueing(
    tracer: Tracer, queue: str | None, count: int | None
) -> Iterator[EnqueueSpan]:
    from opentelemetry.trace import SpanKind

    attributes: dict[str, str | int] = {**messaging_attributes("enqueue", "send")}
    if queue is not None:
        attributes["messaging.destination.name"] = queue
    if count is not None:
        attributes["messaging.batch.message_count"] = count
    span = tracer.start_span("enqueue", kind=SpanKind.PRODUCER, attributes=attributes)
    try:
        yield EnqueueSpan(span)
    except BaseException as error:
        mark_failed(span, type(error).__name__)
        raise
    finally:
        span.end()
