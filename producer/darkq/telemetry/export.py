"""Where a process of darkq's own sends its spans: as OpenTelemetry's variables say.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318      this is enough
    OTEL_TRACES_EXPORTER=otlp|console|none                 …and what its SDK knows beyond

Without one of these nothing is imported. Spans are sent by a thread of the SDK's, from a bounded
queue: a collector that is away costs spans, and nothing else. A process whose provider is set
already, as `opentelemetry-instrument` does, keeps that one.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from darkq.telemetry.logging import LogEvent, describe_error

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger("darkq.tracing")

FLUSH_S = 5.0
_ENTRY_POINTS = "opentelemetry_traces_exporter"
_BY_PROTOCOL = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


@contextmanager
def export_traces(service: str) -> Iterator[None]:
    """Trace for the length of the block, if that is configured; send what is left at its end.

    That may take `FLUSH_S` seconds. Never raises of itself: what is wrong with it is logged.
    """
    names = exporters(os.environ)
    provider = _provider(names, service) if names else None
    try:
        yield
    finally:
        if provider is not None:
            _shut_down(provider)


def exporters(environment: Mapping[str, str]) -> list[str]:
    """Return the exporters that the environment asks for, as their entry points are called."""
    said = {name: value.strip() for name, value in environment.items() if value.strip()}
    if said.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
    wanted = said.get("OTEL_TRACES_EXPORTER", "otlp" if said.keys() & otlp else "none")
    protocol = said.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = said.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol)
    names = (name.strip() for name in wanted.split(","))
    return [
        _BY_PROTOCOL.get(protocol, protocol) if name == "otlp" else name
        for name in names
        if name not in ("", "none")
    ]


def _provider(names: list[str], service: str) -> TracerProvider | None:
    """Make a provider and set it; None where there is one, or none can be made."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("no traces: install darkq[otel], or unset OTEL_…")
        return None
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    try:
        resource = Resource.create({} if _is_named() else {SERVICE_NAME: service})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for name in names:
            provider.add_span_processor(BatchSpanProcessor(_load(name)()))
    except Exception as error:  # of somebody's variables, in somebody's exporter
        logger.warning(
            LogEvent("no traces", exporters=",".join(names), error=describe_error(error))
        )
        return None
    trace.set_tracer_provider(provider)
    logger.info(LogEvent("traces are sent", exporters=",".join(names)))
    return provider


def _is_named() -> bool:
    named = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in named


def _load(exporter: str) -> Any:
    found = importlib.metadata.entry_points(group=_ENTRY_POINTS, name=exporter)
    if not found:
        raise LookupError(exporter)
    return next(iter(found)).load()


def _shut_down(provider: TracerProvider) -> None:
    """Send what is left. A collector that does not answer is not waited for any longer."""
    thread = threading.Thread(target=provider.shutdown, name="darkq-last-spans", daemon=True)
    thread.start()
    thread.join(FLUSH_S)
