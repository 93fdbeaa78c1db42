"""The span of a request (SERVER), in the trace that its `traceparent` names, or in a new one.

What handlers do, such as to store a job or to follow one, is within it. The route stands for the
path, and nothing of the query, the other headers or a body is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from darkq.telemetry.tracing import TraceContext, tracer
from darkq_gateway.http.context import TRACE_ID

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


def middlewares() -> list[Middleware]:
    """Return the middleware that traces requests; none where the process does not trace."""
    found = tracer()
    return [] if found is None else [_tracing(found)]


def _tracing(tracer: Tracer) -> Middleware:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, StatusCode, use_span

    @web.middleware
    async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
        method = request.method if request.method in hdrs.METH_ALL else "_OTHER"
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "?"
        span = tracer.start_span(
            f"{method} {route}",
            context=_sent_context(request).context() or Context(),
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
        finally:  # the client may have gone, which is no fault
            span.end()

    return trace


def _sent_context(request: web.Request) -> TraceContext:
    sent = request.headers.getall("traceparent", [])
    state = ",".join(request.headers.getall("tracestate", []))
    return TraceContext.parse(sent[0] if len(sent) == 1 else "", state)
