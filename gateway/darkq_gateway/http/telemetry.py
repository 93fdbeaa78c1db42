"""What this process records of requests: a log record, metrics, and a span for each.

All three name a request by the pattern of its route, such as `/jobs/{job_id}`. They contain nothing
of the path, the query, the headers or the body: so no id, prompt, answer or key.
"""

from __future__ import annotations

import logging

from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Handler, Middleware

from darkq.telemetry.logging import LogEvent
from darkq.telemetry.metrics import Measure, Tally
from darkq.telemetry.tracing import TraceContext, tracer
from darkq_gateway.http.context import CALLER, REQUEST_ID, ROUTE, TRACE_ID
from darkq_gateway.http.errors import get_route_pattern

REQUESTS = Measure(
    "darkq_gateway_http_requests",
    "Requests answered, by the pattern of their path and the class of the status.",
    ("method", "route", "status"),
)
RELAY = Measure(
    "darkq_gateway_relay_seconds",
    "From when live events reach this process to when their reader's socket has taken them.",
    is_histogram=True,
)
OWN = (REQUESTS, RELAY)

TALLY = web.AppKey("tally", Tally)


def count_response(tally: Tally, request: web.Request, route: str, status: int) -> None:
    """Count a response when it begins."""
    method = request.method if request.method in hdrs.METH_ALL else "other"
    tally.count(REQUESTS, method, route, f"{status // 100}xx")


class AccessLogger(AbstractAccessLogger):
    """`request method=POST route=/jobs/{job_id}/cancel status=200 bytes=143 took_s=0.004 key=…`."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log a request that has been answered."""
        caller = request.get(CALLER)
        self.logger.info(
            LogEvent(
                "request",
                method=_sanitize_method(request.method),
                route=request.get(ROUTE, "?"),
                status=response.status,
                bytes=response.body_length,
                took_s=round(time, 4),
                key=caller.key.id if caller is not None and caller.key is not None else None,
                request=request.get(REQUEST_ID),
                trace_id=request.get(TRACE_ID),
            ),
        )


class OmitExceptionText(logging.Filter):
    """Replaces an exception by its type. Its text may quote what a client has sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the text and keep the record."""
        if record.exc_info and record.exc_info[0] is not None:
            record.msg = f"{record.msg}: {record.exc_info[0].__name__}"
            record.exc_info = None
        return True


def _sanitize_method(method: str) -> str:
    return method if method.isascii() and method.isalpha() and len(method) <= 16 else "?"


def tracing_middlewares() -> list[Middleware]:
    """Return the middleware that traces requests; none if the process does not trace.

    Each request has a SERVER span, in the trace of its `traceparent` or in a new one.
    """
    spans = tracer()
    if spans is None:
        return []
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, StatusCode, use_span

    @web.middleware
    async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
        method = request.method if request.method in hdrs.METH_ALL else "_OTHER"
        route = get_route_pattern(request)
        parents = request.headers.getall("traceparent", [])
        parent = parents[0] if len(parents) == 1 else ""
        state = ",".join(request.headers.getall("tracestate", []))
        span = spans.start_span(
            f"{method} {route}",
            context=TraceContext.parse(parent, state).context() or Context(),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": method,
                "http.route": route,
                "url.scheme": request.scheme,
            },
        )
        request[TRACE_ID] = f"{span.get_span_context().trace_id:032x}"
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= 500:
                span.set_status(StatusCode.ERROR)
            return response
        finally:  # an exception here means that the client disconnected, which is not an error
            span.end()

    return [trace]
