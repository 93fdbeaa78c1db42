"""The span of a call (CLIENT), and what its HTTP request tells of it.

Attributes follow OpenTelemetry's conventions for generative AI and HTTP. Of an address the host and
the port are told, no path and no query; of the options none that may quote a prompt.
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
    """A call of an upstream. This one is not traced."""

    def first_chunk(self) -> None:
        """Say that the first text has come."""

    def ended(self, end: End) -> None:
        """Say how the answer ended."""


UNTRACED_CALL = CallSpan()


class TracedCall(CallSpan):
    """A call of an upstream within a traced attempt."""

    def __init__(self, tracer: Tracer, attempt: Span, upstream: str, request: Request) -> None:
        from opentelemetry.trace import SpanKind, use_span

        options = request.options
        wishes = {f"gen_ai.request.{name}": getattr(options, name, None) for name in _OPTIONS}
        most = getattr(options, "max_completion_tokens", None)
        wishes["gen_ai.request.max_tokens"] = wishes["gen_ai.request.max_tokens"] or most
        self._attempt = attempt
        self._span = tracer.start_span(
            f"chat {request.model}",
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": upstream,
                "gen_ai.request.model": request.model or "",
                **{name: value for name, value in wishes.items() if value is not None},
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

    def ended(self, end: End) -> None:
        self._span.set_attribute("gen_ai.response.finish_reasons", [end.finish_reason])
        if end.usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", end.usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", end.usage.completion_tokens)


def requested(url: str, method: str, *, sends_trace: bool) -> dict[str, str]:
    """Note where a call's request goes; return the headers that carry the trace, if it may."""
    span = _current_call.get()
    if span is None:
        return {}
    parts = urlsplit(url)
    span.set_attribute("http.request.method", method)
    span.set_attribute("server.address", parts.hostname or "")
    span.set_attribute("server.port", parts.port or (443 if parts.scheme == "https" else 80))
    carried = TraceContext.from_span(span) if sends_trace else NO_CONTEXT
    return {name: value for name, value in carried._asdict().items() if value}


def answered(status: int) -> None:
    """Note the status of the answer to a call's request."""
    span = _current_call.get()
    if span is not None:
        span.set_attribute("http.response.status_code", status)
