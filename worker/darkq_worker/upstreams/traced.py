"""The span of an upstream call (CLIENT), with attributes of its HTTP request.

Attributes follow OpenTelemetry's conventions for generative AI and HTTP. Of an address they have
host and port, without path and query; of the options none that may quote a prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from darkq.telemetry.tracing import NO_CONTEXT, TraceContext, mark_failed
from darkq_worker.upstreams.base import End, Request, UpstreamError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_OPTIONS = (
    *("temperature", "top_p", "max_tokens", "seed"),
    *("frequency_penalty", "presence_penalty"),
)
_current_call: ContextVar[Span | None] = ContextVar("darkq_call", default=None)


class CallSpan:
    """The span of a call within a traced attempt; without spans it records nothing."""

    def __init__(self, span: Span | None = None, attempt: Span | None = None) -> None:
        self._span = span
        self._attempt = attempt

    def first_chunk(self) -> None:
        """Record that the first text arrived."""
        for span in (self._span, self._attempt):
            if span is not None:
                span.add_event("first chunk")

    def record_end(self, end: End) -> None:
        """Record the end of the answer."""
        if self._span is None:
            return
        self._span.set_attribute("gen_ai.response.finish_reasons", [end.finish_reason])
        if end.usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", end.usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", end.usage.completion_tokens)


UNTRACED_CALL = nullcontext(CallSpan())


@contextmanager
def trace_call(
    tracer: Tracer, attempt: Span, upstream: str, request: Request
) -> Iterator[CallSpan]:
    """Trace a call of an upstream within a traced attempt."""
    from opentelemetry.trace import SpanKind, use_span

    options = request.options
    requested = {f"gen_ai.request.{name}": getattr(options, name, None) for name in _OPTIONS}
    newer_name = getattr(options, "max_completion_tokens", None)
    requested["gen_ai.request.max_tokens"] = requested["gen_ai.request.max_tokens"] or newer_name
    span = tracer.start_span(
        f"chat {request.model}",
        kind=SpanKind.CLIENT,
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": upstream,
            "gen_ai.request.model": request.model or "",
            **{name: value for name, value in requested.items() if value is not None},
        },
    )
    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        before = _current_call.set(span)
        try:
            yield CallSpan(span, attempt)
        except asyncio.CancelledError:
            span.add_event("cancelled")
            raise
        except BaseException as error:
            code = error.code if isinstance(error, UpstreamError) else type(error).__name__
            mark_failed(span, code)
            raise
        finally:
            _current_call.reset(before)


def record_request(url: str, method: str, *, sends_trace: bool) -> dict[str, str]:
    """Record the address of a call; return the headers with the trace, if they may be sent."""
    span = _current_call.get()
    if span is None:
        return {}
    parts = urlsplit(url)
    span.set_attribute("http.request.method", method)
    span.set_attribute("server.address", parts.hostname or "")
    span.set_attribute("server.port", parts.port or (443 if parts.scheme == "https" else 80))
    carried = TraceContext.from_span(span) if sends_trace else NO_CONTEXT
    return {name: value for name, value in carried._asdict().items() if value}


def record_status(status: int) -> None:
    """Record the HTTP status of a call."""
    span = _current_call.get()
    if span is not None:
        span.set_attribute("http.response.status_code", status)
