"""Fixtures: a program that traces, with the real SDK; a worker with a DarkAI to ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Traced:
    """What a program that traces has told so far."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> Sequence[Any]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[Any]:
        """Return the ended spans of a name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Any:
        """Return the only ended span of a name."""
        (span,) = self.named(name)
        return span

    @property
    def everything(self) -> str:
        """All that spans say, as text."""
        return "".join(span.to_json() for span in self.spans)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    """Make this process one that traces, for one test."""
    traced = Traced()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", traced.provider)
    yield traced
    traced.provider.shutdown()
