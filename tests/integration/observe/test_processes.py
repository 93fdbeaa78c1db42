"""What real processes log: one line for each end, as JSON, with what can be measured."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Job, JobCancelled, JobFailed, Settings
from darkq.event import Chunk
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import Arguments, JobRecord, encode
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.by_hand import put
from support.gateway_process import darkq, listening
from support.http_api import Api
from support.processes import WorkerProcess
from support.servers import Server
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartProcess = Callable[[Settings], WorkerProcess]
MakeSettings = Callable[..., Settings]

FORGED = "x\n{}\x1b[2J"


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Read whole lines, each of which must be an object."""
    whole, _, _ = log.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


async def ends(worker: WorkerProcess, count: int) -> list[dict[str, Any]]:
    """Wait for so many ends of attempts."""

    def found() -> list[dict[str, Any]]:
        told = [each for each in lines_of(worker.log) if str(each["event"]).endswith(" ended")]
        return told if len(told) >= count else []

    return await wait_until(f"{count} ends", found)


@pytest.fixture
async def start(
    make_settings: MakeSettings, start_darkai: StartDarkAI, start_process: StartProcess
) -> Callable[..., Awaitable[WorkerProcess]]:
    async def start(*plan: Fault | None, chunks: int = 20, **changes: Any) -> WorkerProcess:
        darkai = await start_darkai(*plan, chunks=chunks, chunks_per_s=changes.pop("pace", 0))
        changes = {"darkai_url": darkai.url, "log_format": "json", "retry_base_s": 0.01, **changes}
        worker = start_process(make_settings(**changes))
        await wait_until("the worker", lambda: worker.ready)
        return worker

    return start


async def test_a_jobs_end_is_a_line_with_where_its_time_went(start: Any, client: Client) -> None:
    worker = await start()
    began_s = time.monotonic()
    job = await client.enqueue("hi", model="gpt-4o")
    result = await job.result(timeout_s=10)
    (told,) = await ends(worker, 1)
    took_s = time.monotonic() - began_s
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("ts"))
    parts = ("waited_s", "first_chunk_s", "generating_s", "settling_s")
    durations = {name: told.pop(name) for name in (*parts, "total_s")}
    # The producer's clock, cut to whole milliseconds, and that of Redis are one here.
    assert all(0 <= seconds <= took_s + 0.002 for seconds in durations.values()), durations
    assert sum(durations[name] for name in parts) <= durations["total_s"] + 0.003
    assert told.pop("worker").rpartition(":")[0].endswith(f":{worker.pid}")
    assert told == {
        "level": "info", "logger": "darkq.worker", "event": "job ended", "job": job.id,
        "attempt": 1, "outcome": "completed", "model": "gpt-4o", "upstream": "darkai", "tries": 1,
        "chunks": result.chunks, "chars": len(result.text), "priority": "interactive",
        "partition": 0,
    }  # fmt: skip


async def test_a_retry_has_its_own_line_and_a_failure_its_code(start: Any, client: Client) -> None:
    worker = await start(Fault.parse("429"), Fault.parse("html=502"))
    job = await client.enqueue("hi", tries=2)
    with pytest.raises(JobFailed):
        await job.result(timeout_s=10)
    first, second = await ends(worker, 2)
    names = ("event", "level", "attempt", "tries", "outcome", "code", "chunks")
    assert [tuple(told[name] for name in names) for told in (first, second)] == [
        ("attempt ended", "info", 1, 1, "retrying", "rate_limited", 0),
        ("job ended", "warning", 2, 2, "failed", "upstream_overloaded", 0),
    ]
    assert first["retry_in_s"] > 0
    assert "first_chunk_s" not in first
    assert "generating_s" not in second


async def test_a_cancelled_job_and_one_that_is_handed_back(start: Any, client: Client) -> None:
    worker = await start(chunks=1000, pace=50, worker_shutdown_grace_s=0)
    jobs = [await client.enqueue("hi") for _ in range(2)]
    for job in jobs:
        async for event in job.events():
            if isinstance(event, Chunk):
                break
    await jobs[0].cancel()
    with pytest.raises(JobCancelled):
        await jobs[0].result(timeout_s=10)
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    cancelled, handed_back = await ends(worker, 2)
    assert [(told["job"], told["event"], told["outcome"]) for told in (cancelled, handed_back)] == [
        (jobs[0].id, "job ended", "cancelled"), (jobs[1].id, "attempt ended", "handed_back"),
    ]  # fmt: skip
    events = [told["event"] for told in lines_of(worker.log)]
    assert events[0] == "worker ready"
    assert events[-1] == "worker stopped"
    await jobs[1].cancel()


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_hostile_names_forge_no_line(
    start: Any, client: Client, redis: Redis, log_format: str
) -> None:
    """`enqueue` refuses such a model, so it comes as whoever writes to Redis can send it."""
    worker = await start(log_format=log_format, worker_log_level="DEBUG")
    keys = JobKeys.new(0)
    job = Job(prompt="canary-prompt", model=FORGED, upstream=FORGED, metadata={FORGED: FORGED})
    await put(redis, keys, record=encode(JobRecord(k=Arguments(job), et=1)))
    for model in ("a b", "a=b", 'a"b'):
        named = await client.enqueue("canary-prompt", model=model, metadata={FORGED: FORGED})
        with pytest.raises(JobFailed):
            await named.result(timeout_s=10)
    with pytest.raises(JobFailed):
        await client.job(keys.public_id).result(timeout_s=10)
    await wait_until("all ends", lambda: worker.log.read_text().count("job ended") == 4)
    log = worker.log.read_text()
    assert "canary" not in log
    assert "\x1b" not in log
    for line in log.splitlines():
        if log_format == "json":
            assert json.loads(line)["logger"]
        else:
            assert re.match(r"\d{4}-\d\d-\d\dT\S+Z [A-Z]+ [\w.]+: ", line), line


async def test_a_gateway_logs_its_requests_the_same_way(
    redis_server: Server, client: Client
) -> None:
    settings = {"DARKQ_GATEWAY_PORT": "0", "DARKQ_LOG_FORMAT": "json"}
    async with darkq(redis_server.url, "gateway", **settings) as process:
        async with Api((await listening(process)).rstrip('"}')) as api:
            answer = await api("POST", "/jobs?key=canary", {"prompt": "canary-prompt"})
        assert answer.status == 201
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 10)
    assert "canary" not in err.decode()
    told = [json.loads(line) for line in err.decode().splitlines()]
    (request,) = [each for each in told if each["event"] == "request"]
    assert 0 <= request.pop("took_s") < 10
    assert request.pop("request") == answer.headers["X-Request-Id"]
    assert request.pop("ts")
    assert request.pop("bytes") > 0
    assert request == {
        "level": "info", "logger": "darkq.gateway.access", "event": "request",
        "method": "POST", "route": "/jobs", "status": 201,
    }  # fmt: skip
