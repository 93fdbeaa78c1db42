"""The spans of a gateway's requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from darkq import Client, Settings
from darkq_gateway.serve import gateway
from support.http_api import Api
from support.waiting import wait_until

from .conftest import Traced

PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
async def api(traced: Traced, make_settings: Callable[..., Settings]) -> AsyncIterator[Api]:
    """A caller of a gateway that traces."""
    async with gateway(make_settings(gateway_port=0)) as url, Api(url) as api:
        yield api


async def test_a_request_is_a_span_and_quotes_nothing(api: Api, traced: Traced) -> None:
    await api("GET", "/jobs/canary?after=canary", headers={"X-Canary": "canary"})
    await api("GET", "/jobs/canary/events?ticket=canary")
    await api("GET", "/canary")
    await api.bare(b"PROPFIND /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert [
        (span.name, span.attributes["http.response.status_code"], span.kind)
        for span in traced.spans
    ] == [
        ("GET /jobs/{job_id}", 404, SpanKind.SERVER),
        ("GET /jobs/{job_id}/events", 401, SpanKind.SERVER),
        ("GET ?", 404, SpanKind.SERVER),
        ("_OTHER ?", 405, SpanKind.SERVER),
    ]
    assert {span.status.status_code for span in traced.spans} == {StatusCode.UNSET}
    assert "canary" not in traced.everything.lower()


async def test_a_failure_of_ours_is_an_error(
    api: Api, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(Client, "jobs", broken)
    assert (await api("GET", "/jobs")).status == 500
    assert traced.one("GET /jobs").status.status_code is StatusCode.ERROR
    assert "canary" not in traced.everything


@pytest.mark.parametrize(
    ("headers", "parent"),
    [
        ([("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")], "cd" * 8),
        ([("traceparent", PARENT), ("tracestate", "a=" + "b" * 600)], "cd" * 8),
        ([("traceparent", PARENT), ("traceparent", PARENT)], None),
        ([("traceparent", "x" * 4000)], None),
        ([("traceparent", f"00-{'0' * 32}-{'cd' * 8}-01")], None),
        ([("tracestate", "a=1")], None),
    ],
)
async def test_it_takes_a_traceparent_that_is_one(
    api: Api, traced: Traced, headers: list[tuple[str, str]], parent: str | None
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n"
    assert b" 200 " in await api.bare(head.encode())
    await wait_until("the span", lambda: traced.named("GET /healthz"))
    span = traced.one("GET /healthz")
    assert (span.parent and f"{span.parent.span_id:016x}") == parent
    state = span.context.trace_state.to_header()
    assert state == ("a=1,b=2" if len(headers) == 3 else "")
