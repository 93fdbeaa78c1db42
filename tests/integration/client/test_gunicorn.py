"""A web app under `gunicorn --preload`: its client is used before the workers are forked."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from support.servers import Server
from support.waiting import wait_until

_APP = """
import gc, os, time
from darkq.sync import Client

client = Client()
job = client.enqueue("before the fork")

async def collect():
    gc.collect()

def app(environ, start_response):
    client.enqueue("in a worker")
    client._open().call(collect())  # in the loop's thread, as it happens when most is made
    body = f"{os.getpid()} {job.status().state}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

_CONFIG = """
import time

def pre_fork(server, worker):
    import app
    began_s = time.monotonic()
    state = app.job.status().state
    print(f"parent: {state} after {time.monotonic() - began_s:.1f} s", flush=True)
"""


@pytest.fixture
def gunicorn(redis_server: Server, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Run the app with two workers; yield its URL, and the file that its parent writes to."""
    (tmp_path / "app.py").write_text(_APP)
    (tmp_path / "config.py").write_text(_CONFIG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", address]
    environment = {**os.environ, "DARKQ_REDIS_URL": redis_server.url, "DARKQ_REDIS_TIMEOUT_S": "5"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--config", "config.py", "app:app"],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield f"http://{address}", log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


async def test_a_preloaded_app_serves_and_its_parent_forks_on(
    redis: Redis, gunicorn: tuple[str, Path]
) -> None:
    """Red when a child drops the portal that it has inherited: collected there, its sockets leave
    the selector of the parent, whose next call then waits for its timeout, and fails.
    """
    url, log = gunicorn

    def forks() -> list[str]:
        return [line for line in log.read_text().splitlines() if line.startswith("parent: ")]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:

        async def ask() -> tuple[int, str] | None:
            try:
                async with http.get(url) as response:
                    pid, state = (await response.text()).split()
                    return int(pid), state
            except aiohttp.ClientConnectionError:
                return None

        served: dict[int, str] = {}

        async def both_have_served() -> bool:
            served.update([answer] if (answer := await ask()) else [])
            return len(served) >= 2

        await wait_until("both workers to serve", both_have_served, timeout_s=30)
        assert set(served.values()) == {"queued"}
        os.kill(next(iter(served)), signal.SIGKILL)
        await wait_until("another worker", lambda: len(forks()) == 3, timeout_s=20)
        await asyncio.gather(*(ask() for _ in range(4)))
    assert [line.split()[1] for line in forks()] == ["queued"] * 3
    assert all(float(line.split()[-2]) < 3 for line in forks()), log.read_text()
