"""Which exporter OpenTelemetry's variables ask for, and what is wrong with them."""

from __future__ import annotations

import sys

import pytest
from opentelemetry import trace

from darkq.telemetry.export import export_traces, find_exporters
from darkq.telemetry.tracing import tracer

from .conftest import Traced

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": URL}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_SDK_DISABLED": "True"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_http"]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["otlp_proto_grpc"],
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": URL,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            ["otlp_proto_http"],
        ),
    ],
)
def test_the_variables_say_where_spans_go(variables: dict[str, str], names: list[str]) -> None:
    assert find_exporters(variables) == names


@pytest.mark.parametrize("name", ["nobodys", "otlp"])
def test_what_cannot_be_made_is_a_warning(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "canary")
    with export_traces("test"):
        assert tracer() is None
    assert "no traces" in caplog.text
    assert "LookupError" in caplog.text


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", URL)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with export_traces("test"):
        assert tracer() is None
    assert "darkq[otel]" in caplog.text


def test_a_provider_that_is_there_stays(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", URL)
    with export_traces("test"):
        assert trace.get_tracer_provider() is traced.provider
    with traced.tracer.start_as_current_span("after"):
        pass
    assert traced.one("after"), "and is not shut down"
