"""The commands that run one process of the system, and those that look at one."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.operate.workers import sign_in
from darkq.protocol.keys import WorkerKeys
from darkq_cli.commands.observe import _build_hint
from darkq_local.faults import Fault
from support.command import Darkq
from support.waiting import wait_until


async def test_a_worker_works_and_is_seen_to(
    darkq: Darkq, client: Client, start_darkai: Callable[..., Any]
) -> None:
    unseen = await asyncio.to_thread(darkq, "worker", "--check")
    assert (unseen.code, unseen.out) == (1, b"")
    assert f"no worker of this host ({socket.gethostname()}) is alive" in unseen.err
    darkai = await start_darkai()
    process = darkq.start("worker", environment={"DARKQ_DARKAI_URL": darkai.url})
    await wait_until("the worker", client.workers)
    seen = await asyncio.to_thread(darkq, "worker", "--check")
    assert seen.code == 0
    assert f"{socket.gethostname()}:{process.pid}:" in seen.err
    assert len((await (await client.enqueue("hi")).result(10)).text.split()) == 20
    process.send(signal.SIGTERM)
    done = await asyncio.to_thread(process.done)
    assert done.code == 0
    assert "worker stopped" in done.err
    assert await client.workers() == []


async def test_a_worker_of_another_host_is_not_ours(
    darkq: Darkq, redis: Redis, client: Client
) -> None:
    await redis.set(WorkerKeys("elsewhere:1:00000000").health, "healthy", ex=60)
    await sign_in(redis, "elsewhere:1:00000000")
    assert await client.workers() == ["elsewhere:1:00000000"]
    assert (await asyncio.to_thread(darkq, "worker", "--check")).code == 1


def test_the_check_starts_nothing_and_writes_nothing(alone: Darkq) -> None:
    done = alone("worker", "--check")
    assert done.code == 1
    assert "no embedded server is running" in done.err
    assert not alone.state.exists()


async def test_a_worker_alone_brings_its_redis(
    alone: Darkq, start_darkai: Callable[..., Any]
) -> None:
    darkai = await start_darkai()
    process = alone.start("worker", environment={"DARKQ_DARKAI_URL": darkai.url})
    await wait_until("the worker", lambda: process.says("worker ready"))
    running = alone.start("run", "hi")
    await wait_until("the answer", lambda: running.has_ended)
    assert len(running.out.split()) == 20
    process.send(signal.SIGINT)
    assert (await asyncio.to_thread(process.done)).code == 0
    assert not (alone.state / "redis.sock").exists()


OTHER = '{"nobody": {"url": "http://127.0.0.1:1/v1", "models": "m"}}'


def healthz(url: str) -> dict[str, str]:
    with urllib.request.urlopen(url.replace("/chat", "/healthz"), timeout=5) as answer:
        found: dict[str, str] = json.load(answer)
    return found


async def test_a_local_darkai_serves_until_a_signal(alone: Darkq) -> None:
    server = alone.start("local-darkai", "--model", "markov", "--pace", "0", "--max-chunks", "5")
    await wait_until("the address", lambda: server.says("/chat\n"))
    url = server.err.split()[-1]
    assert (await asyncio.to_thread(healthz, url))["kind"] == "markov"
    probed = await asyncio.to_thread(
        alone, "upstreams", "--json", environment={"DARKQ_DARKAI_URL": url}
    )
    (finding,) = probed.objects
    assert probed.code == 0
    assert (finding["name"], finding["works"], finding["reason"]) == ("darkai", True, "")
    assert finding["latency_s"] > 0
    assert finding["default_model"] in finding["models"]
    server.send(signal.SIGTERM)
    assert (await asyncio.to_thread(server.done)).code == 0


def test_a_port_that_is_taken_is_named(alone: Darkq) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = alone("local-darkai", "--model", "markov", "--port", str(port))
    assert done.code == 1
    assert done.err.startswith(f"darkq: cannot listen on 127.0.0.1, port {port}: ")
    assert "already in use" in done.err


async def test_upstreams_tells_why_one_does_not_work(
    alone: Darkq, start_darkai: Callable[..., Any]
) -> None:
    darkai = await start_darkai(Fault.parse("html=403"))
    done = await asyncio.to_thread(alone, "upstreams", environment={"DARKQ_DARKAI_URL": darkai.url})
    assert done.code == 1
    row = " ".join(done.out.decode().split())
    assert "darkai no " in row
    assert "llama-3-70b (default)" in row
    assert "HTTP 403" in row
    assert done.err == "darkq: no upstream works now\n"


def test_upstreams_names_the_remedy_for_the_dead_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when the hint also comes for an upstream of one's own."""
    monkeypatch.delenv("DARKQ_DARKAI_URL", raising=False)
    assert "not answered since 2025" in _build_hint(Settings())
    assert _build_hint(Settings(darkai_url="http://127.0.0.1:1/chat")) == ""


async def test_upstreams_waits_for_no_longer_than_it_is_told(
    alone: Darkq, start_darkai: Callable[..., Any]
) -> None:
    """Red when the option is not passed on: the call alone may take minutes."""
    darkai = await start_darkai(Fault.parse("hang=0"))
    arguments = ("upstreams", "--json", "--timeout-s", "0.3")
    done = await asyncio.to_thread(alone, *arguments, environment={"DARKQ_DARKAI_URL": darkai.url})
    (finding,) = done.objects
    assert (done.code, finding["works"]) == (1, False)
    assert finding["reason"] == "timeout: no text came within 0.3 s"
    assert finding["latency_s"] >= 0.3


@pytest.mark.slow
async def test_a_probe_counts_in_the_limits_that_workers_share(
    alone: Darkq, start_darkai: Callable[..., Any]
) -> None:
    darkai = await start_darkai()
    environment = {"DARKQ_DARKAI_URL": darkai.url, "DARKQ_DARKAI_LIMITS": "2/600"}
    up = alone.start("up", environment=environment)
    await wait_until("the stack", lambda: up.says("darkq is up"))

    async def probe() -> dict[str, Any]:
        done = await asyncio.to_thread(alone, "upstreams", "--json", environment=environment)
        (finding,) = done.objects
        return finding

    async def is_announced() -> bool:
        return bool((await probe_nothing())["workers"] == 1)

    async def probe_nothing() -> dict[str, Any]:
        nobody = {**environment, "DARKQ_DARKAI_URL": "none", "DARKQ_UPSTREAMS": OTHER}
        done = await asyncio.to_thread(alone, "upstreams", "--json", environment=nobody)
        return next((f for f in done.objects if f["name"] == "darkai"), {"workers": 0})

    await wait_until("the announcement", is_announced)
    unasked = await probe_nothing()
    assert (unasked["works"], unasked["reason"]) == (None, "not called: it is not configured here")
    assert darkai.requests_seen == 0
    findings = [await probe() for _ in range(3)]
    assert [finding["works"] for finding in findings] == [True, True, None]
    assert findings[2]["reason"] == "not called: its limits leave no room now"
    assert [finding["windows"][0]["used"] for finding in findings] == [1, 2, 2]
    assert findings[2]["waiting"] == 0, "a probe waits in no line"
    assert darkai.requests_seen == 2
    up.send(signal.SIGINT)
    assert (await asyncio.to_thread(up.done)).code == 0
