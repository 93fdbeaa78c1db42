"""One trace over real processes: a caller, a gateway, a worker, a reader; a real collector."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import pytest

from darkq import Client, Settings
from support.darkai_frames import BEGIN, END, chunk
from support.gateway_process import darkq, listening
from support.http_api import Api
from support.otlp import Collector, Told
from support.processes import WorkerProcess
from support.scripted_http import ScriptedServer, head
from support.servers import Server
from support.waiting import wait_until

StartProcess = Callable[[Settings], WorkerProcess]
MakeSettings = Callable[..., Settings]

TRACE_ID, CALLER = "ab" * 16, "cd" * 8
SENT = {"traceparent": f"00-{TRACE_ID}-{CALLER}-01", "tracestate": "vendor=1"}
PROMPT, ANSWER = "canary-prompt", "canary-answer"

READER = """
import asyncio, sys
from opentelemetry import trace
from darkq import Client
from darkq.telemetry.export import export_traces

async def main():
    async with Client() as client:
        print("".join([piece async for piece in client.job(sys.argv[1]).text()]))

with export_traces("reader"):
    asyncio.run(main())
"""


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Collector], dict[str, str]]:
    """Have all processes that are started send their spans to a collector, when they end."""

    def set_up(collector: Collector) -> dict[str, str]:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "60000",  # no span comes by itself before the test is over
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return set_up


async def read_elsewhere(redis_url: str, job_id: str) -> str:
    """Read a job's text in a process of its own that is part of no trace."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", READER, job_id),
        env={**os.environ, "DARKQ_REDIS_URL": redis_url},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    return out.decode().strip()


async def test_one_trace_from_the_caller_to_the_readers(
    tracing: Callable[[Collector], dict[str, str]],
    redis_server: Server,
    client: Client,
    make_settings: MakeSettings,
    start_process: StartProcess,
) -> None:
    async with (
        Collector() as collector,
        ScriptedServer([head(), BEGIN + chunk(ANSWER) + END]) as upstream,
    ):
        variables = tracing(collector)
        settings = make_settings(darkai_url=upstream.url, darkai_sends_trace=True)
        worker = start_process(settings)
        async with darkq(
            redis_server.url, "gateway", DARKQ_GATEWAY_PORT="0", **variables
        ) as gateway:
            async with Api(await listening(gateway)) as api:
                made = await api("POST", "/jobs", {"prompt": PROMPT}, headers=SENT)
                job_id = made.json["job_id"]
                events = await api.events(f"/jobs/{job_id}/events", **SENT)
            gateway.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(gateway.wait(), 20) == 0
        assert ANSWER in str(events)
        assert await read_elsewhere(redis_server.url, job_id) == ANSWER
        await wait_until("the worker", lambda: "job ended" in worker.log.read_text())
        worker.send(signal.SIGTERM)
        assert await worker.wait() == 0
        (asked,) = upstream.requests
        spans = {(span.service, span.name): span for span in collector.spans}
        told = collector.bodies

    def parent(child: Told) -> tuple[str, str] | None:
        found = [key for key, span in spans.items() if span.span_id == child.parent_id]
        return found[0] if found else None

    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    post, get = "POST /jobs", "GET /jobs/{job_id}/events"
    assert {key: (span.kind, parent(span)) for key, span in spans.items()} == {
        ("darkq-gateway", post): ("server", None),
        ("darkq-gateway", "enqueue"): ("producer", ("darkq-gateway", post)),
        ("darkq-worker", "attempt"): ("consumer", ("darkq-gateway", "enqueue")),
        ("darkq-worker", "chat llama-3-70b"): ("client", ("darkq-worker", "attempt")),
        ("darkq-gateway", get): ("server", None),
        ("darkq-gateway", "tail"): ("consumer", ("darkq-gateway", get)),
        ("reader", "tail"): ("consumer", ("darkq-worker", "attempt")),
    }
    assert {spans["darkq-gateway", name].parent_id for name in (post, get)} == {CALLER}
    attempt, call = spans["darkq-worker", "attempt"], spans["darkq-worker", "chat llama-3-70b"]
    assert spans["darkq-gateway", "tail"].links == [attempt.span_id]
    assert attempt.attributes["messaging.message.id"] == job_id
    assert asked.headers["traceparent"] == f"00-{TRACE_ID}-{call.span_id}-01"
    assert asked.headers["tracestate"] == SENT["tracestate"]
    assert not [span for span in spans.values() if span.failed]
    assert PROMPT.encode() not in told
    assert ANSWER.encode() not in told
    log = worker.log.read_text()
    assert f"trace_id={TRACE_ID} span_id={attempt.span_id}" in log


async def test_a_collector_that_does_not_answer_disturbs_nothing(
    tracing: Callable[[Collector], dict[str, str]],
    client: Client,
    make_settings: MakeSettings,
    start_process: StartProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        Collector() as collector,
        ScriptedServer([head(), BEGIN + chunk(ANSWER) + END]) as upstream,
    ):
        tracing(collector)
        collector.answers.clear()
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
        worker = start_process(make_settings(darkai_url=upstream.url))
        jobs = await client.enqueue_many([PROMPT] * 20)
        for job in jobs:
            assert (await job.result(timeout_s=20)).text == ANSWER
        await wait_until("the collector to be asked", lambda: collector.requests)
        worker.send(signal.SIGTERM)
        assert await worker.wait() == 0
        assert collector.spans == []


@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}],
    ids=["not configured", "disabled", "none"],
)
async def test_without_configuration_a_worker_loads_nothing(
    client: Client, make_settings: MakeSettings, start_darkai: Callable[..., object],
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str],
) -> None:  # fmt: skip
    loaded = "import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules)))"
    if variables:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with ScriptedServer([head(), BEGIN + chunk(ANSWER) + END]) as upstream:
        log = make_settings().state_dir.parent / "worker.log"
        worker = WorkerProcess(make_settings(darkai_url=upstream.url), log, prelude=loaded)
        try:
            await (await client.enqueue(PROMPT)).result(timeout_s=20)
            worker.send(signal.SIGTERM)
            assert await worker.wait() == 0
        finally:
            worker.end()
    modules = log.read_text().splitlines()[-1].split()
    assert "darkq_worker.main" in modules
    assert not [name for name in modules if name.startswith(("opentelemetry", "google"))]
