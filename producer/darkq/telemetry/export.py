"""Runs darkq's own processes, and exports their spans as OpenTelemetry's variables say.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318      this is sufficient
    OTEL_TRACES_EXPORTER=otlp|console|none                 … or another exporter of the SDK

Without one of these nothing is imported. A thread of the SDK sends the spans from a bounded queue:
if the collector does not answer, spans are lost, and nothing else happens. If the process has a
provider already, as with `opentelemetry-instrument`, that one is used.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from darkq.telemetry.logging import LogEvent, describe_error

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger("darkq.tracing")

FLUSH_S = 5.0
_ENTRY_POINTS = "opentelemetry_traces_exporter"
_BY_PROTOCOL = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


def run_process(service: str, main: Coroutine[Any, Any, None]) -> None:
    """Run the main coroutine of a process, with traces, on uvloop where that is installed."""
    with export_traces(service), asyncio.Runner(loop_factory=_find_loop_factory()) as runner:
        runner.run(main)


def _find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


@contextmanager
def export_traces(service: str) -> Iterator[None]:
    """Trace inside the block, if that is configured, and send the remaining spans at its end.

    That takes at most `FLUSH_S` seconds. Raises no errors of its own: they are logged.
    """
    names = find_exporters(os.environ)
    provider = _create_provider(names, service) if names else None
    try:
        yield
    finally:
        if provider is not None:
            thread = threading.Thread(
                target=provider.shutdown, name="darkq-last-spans", daemon=True
            )
            thread.start()
            thread.join(FLUSH_S)


def find_exporters(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the entry points of the configured exporters."""
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
    wanted = given.get("OTEL_TRACES_EXPORTER", "otlp" if given.keys() & otlp else "none")
    protocol = given.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = given.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol)
    names = (name.strip() for name in wanted.split(","))
    return [
        _BY_PROTOCOL.get(protocol, protocol) if name == "otlp" else name
        for name in names
        if name not in ("", "none")
    ]


def _create_provider(names: list[str], service: str) -> TracerProvider | None:
    """Create and set a provider; None if there is one already, or on an error."""
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
        attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        is_named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in attributes
        resource = Resource.create({} if is_named else {SERVICE_NAME: service})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for name in names:
            provider.add_span_processor(BatchSpanProcessor(_load(name)()))
    except Exception as error:  # configured by the user, in any exporter
        logger.warning(
            LogEvent("no traces", exporters=",".join(names), error=describe_error(error))
        )
        return None
    trace.set_tracer_provider(provider)
    logger.info(LogEvent("traces are sent", exporters=",".join(names)))
    return provider


def _load(exporter: str) -> Any:
    found = importlib.metadata.entry_points(group=_ENTRY_POINTS, name=exporter)
    if not found:
        raise LookupError(exporter)
    return next(iter(found)).load()
