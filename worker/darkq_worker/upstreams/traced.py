"""The span of an upstream call (CLIENT), with attributes of its HTTP request.

Attributes follow OpenTelemetry's conventions for generative AI and HTTP. Of an address they have
host and port, without path and query; of the options none that may quote a prompt.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from darkq.telemetry.tracing import NO_CONTEXT, SpanScope, TraceContext, mark_failed
from darkq_worker.upstreams.base import End, Request, UpstreamError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_OPTIONS = (
    *("temperature", "top_p", "max_tokens", "seed"),
    *("frequency_penalty", "presence_penalty"),
)
_current_call: ContextVar[Span | None] = ContextVar("darkq_call", default=None)


class CallSpan(SpanScope):
    """The span of a call; this class is the null object."""

    def first_chunk(self) -> None:
        """Record that the first text arrived."""

    def record_end(self, end: End) -> None:
        """Record the end of the answer."""


UNTRACED_CALL = CallSpan()


class TracedCall(CallSpan):
    """A call of an upstream within a traced attempt."""

    def __init__(self, tracer: Tracer, attempt: Span, upstream: str, request: Request) -> None:
        from opentelemetry.trace import SpanKind, use_span

        options = request.options
        requested = {f"gen_ai.request.{name}": getattr(options, name, None) for name in _OPTIONS}
        newer_name = getattr(options, "max_completion_tokens", None)
        requested["gen_ai.request.max_tokens"] = (
            requested["gen_ai.request.max_tokens"] or newer_name
        )
        self._attempt = attempt
        self._span = tracer.start_span(
            f"chat {request.model}",
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": upstream,
                "gen_ai.request.model": request.model or "",
                **{name: value for name, value in requested.items() if value is not None},
            },
        )
        self._current: AbstractContextManager[object] = use_span(
            self._span, record_exception=False, set_status_on_exception=False
        )

    def __enter__(self) -> Self:
        self._current.__enter__()
        self._before = _current_call.set(self._span)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _current_call.reset(self._before)
        self._current.__exit__(kind, error, traceback)
        if isinstance(error, UpstreamError):
            mark_failed(self._span, error.code)
        elif isinstance(error, asyncio.CancelledError):
            self._span.add_event("cancelled")
        elif error is not None:
            mark_failed(self._span, type(error).__name__)
        self._span.end()

    def first_chunk(self) -> None:
        self._span.add_event("first chunk")
        self._attempt.add_event("first chunk")

    def record_end(self, end: End) -> None:
        self._span.set_attribute("gen_ai.response.finish_reasons", [end.finish_reason])
        if end.usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", end.usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", end.usage.completion_tokens)


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
