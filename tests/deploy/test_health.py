"""The health checks of image, Compose and Kubernetes, run against real processes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from darkq import Client
from support.command import Darkq, Done, Running
from support.deployment import COMPOSE, DOCKERFILE, container, services
from support.servers import Server
from support.waiting import wait_until

BIN = Path(sys.executable).parent
"""Where the `darkq` command is."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def image_check(process: Running) -> list[str]:
    """The image's health check, with a process in the place of the container's first."""
    (text,) = re.findall(r"^ +CMD (\[.*\])$", DOCKERFILE.read_text(), re.M)
    command: list[str] = json.loads(text)
    assert "/proc/1/cmdline" in command[-1]
    return [part.replace("/proc/1/", f"/proc/{process.pid}/") for part in command]


class Checked:
    """Starts the command by its name, as a container does, and runs checks in its environment."""

    def __init__(self, darkq: Darkq) -> None:
        self._darkq = darkq
        # An address where nobody answers: a check that asked for it by a proxy would fail.
        proxy = "http://127.0.0.1:1"
        darkq.environment |= {"PATH": f"{BIN}:/usr/bin:/bin", "http_proxy": proxy}

    def start(self, *arguments: str, **settings: str) -> Running:
        environment = {f"DARKQ_{name.upper()}": value for name, value in settings.items()}
        self._darkq.environment |= environment
        return self._darkq.start(*arguments, command=["darkq"])

    async def __call__(self, command: list[str]) -> Done:
        return await asyncio.to_thread(lambda: self._darkq.start(command=command).done())


@pytest.fixture
def checked(darkq: Darkq) -> Checked:
    return Checked(darkq)


def compose_check(service: str) -> list[str]:
    """The check of a service, which is the same in all Compose files."""
    found: list[list[str]] = [services(file)[service]["healthcheck"]["test"] for file in COMPOSE]
    kind, *command = found[0]
    assert kind == "CMD"
    assert all(each == found[0] for each in found)
    return command


async def test_a_worker_is_healthy_while_it_lives(checked: Checked, client: Client) -> None:
    worker = container("Deployment", "darkq-worker")
    check = compose_check("worker")
    assert worker["startupProbe"]["exec"]["command"] == check
    assert worker["readinessProbe"]["exec"]["command"] == check
    lenient = worker["livenessProbe"]["exec"]["command"]
    process = checked.start(*worker["args"], darkai_url="http://127.0.0.1:1/chat")
    await wait_until("the worker", client.workers)
    for each in (image_check(process), check, lenient):
        done = await checked(each)
        assert done.code == 0, (each, done.err)
        assert f"{socket.gethostname()}:{process.pid}:" in done.err
    process.send(signal.SIGTERM)
    assert (await asyncio.to_thread(process.done)).code == 0
    for each in (check, lenient):
        assert (await checked(each)).code == 1


async def test_a_worker_is_not_restarted_for_an_outage_of_redis(
    darkq: Darkq, checked: Checked
) -> None:
    worker = container("Deployment", "darkq-worker")
    darkq.environment |= {
        "DARKQ_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0",
        "DARKQ_REDIS_PATIENCE_S": "0.1",
    }
    ready = await checked(worker["readinessProbe"]["exec"]["command"])
    alive = await checked(worker["livenessProbe"]["exec"]["command"])
    assert (ready.code, alive.code) == (1, 0)
    assert "Redis does not answer" in ready.err
    assert "the state is unknown: Redis does not answer" in alive.err
    assert "hunter2" not in ready.err + alive.err


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_gateway_is_healthy_while_it_answers(
    checked: Checked, client: Client, host: str
) -> None:
    await client.api_keys.create("somebody")
    process = checked.start(
        *container("Deployment", "darkq-gateway")["args"],
        gateway_host=host,
        gateway_port=str(free_port()),
    )
    await wait_until("the gateway", lambda: process.says("listening on"))
    check = compose_check("gateway")
    for each in (image_check(process), check):
        done = await checked(each)
        assert done.code == 0, (each, done.err)
        assert "alive: 127.0.0.1, port" in done.err
    process.send(signal.SIGTERM)
    assert (await asyncio.to_thread(process.done)).code == 0
    done = await checked(check)
    assert done.code == 1
    assert "no gateway answers at 127.0.0.1, port" in done.err


async def test_what_answers_in_a_gateways_place_is_none(
    checked: Checked, darkq: Darkq, redis_server: Server
) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        darkq.environment["DARKQ_GATEWAY_PORT"] = str(port)
        done = await checked(["darkq", "gateway", "--check"])
    assert done.code == 1
    assert f"the server at 127.0.0.1, port {port} answers 503" in done.err
