"""A collector: takes spans over OTLP/HTTP on loopback, and keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

KINDS = ["unspecified", "internal", "server", "client", "producer", "consumer"]


class Told(NamedTuple):
    """One span as it came."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: list[str]
    links: list[str]
    failed: bool


class Collector:
    """Listens inside `async with`. While `answers` is not set, requests wait."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.bodies = b""
        self.requests = 0
        self.answers = asyncio.Event()
        self.answers.set()
        app = web.Application(client_max_size=64 << 20)
        app.add_routes([web.post("/v1/traces", self._take)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.answers.set()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def named(self, name: str) -> list[Told]:
        """Return the spans of a name that have come."""
        return [span for span in self.spans if span.name == name]

    async def _take(self, request: web.Request) -> web.Response:
        self.requests += 1
        await self.answers.wait()
        body = await request.read()
        self.bodies += body
        self.spans += _told(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")


def _told(request: Any) -> Iterator[Told]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Told(
                    service,
                    span.name,
                    KINDS[span.kind],
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _attributes(span),
                    [event.name for event in span.events],
                    [link.span_id.hex() for link in span.links],
                    span.status.code == 2,
                )


def _attributes(thing: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in thing.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
