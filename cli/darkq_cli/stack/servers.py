"""The commands that run one process of the system: a worker, a local DarkAI."""

from __future__ import annotations

import asyncio
import http.client
import socket
from contextlib import closing

from darkq import Client, RedisUnavailable, Settings
from darkq_cli.terminal import interrupts, messages, program
from darkq_cli.terminal.options import Model
from darkq_cli.terminal.problems import Problem, require
from darkq_cli.terminal.redis import redis_of

CHECK_TIMEOUT_S = 5.0

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  none is bound


def worker() -> None:
    """Run a worker until a signal."""
    require("worker", "arq", "aiohttp")
    from darkq_worker.main import main

    with redis_of(Settings.load()) as redis:
        main(redis.settings)


def gateway() -> None:
    """Run a gateway until a signal."""
    require("gateway", "aiohttp")
    from darkq_gateway.serve import main

    with redis_of(Settings.load()) as redis:
        main(redis.settings)


def check_worker(*, lenient: bool = False) -> None:
    """Say whether a worker of this host is alive. Starts nothing and writes nothing.

    Raises `Problem` when none is, and when Redis does not answer: unless `lenient`.
    """
    host = socket.gethostname()
    try:
        workers = interrupts.run(_workers(Settings.load()))
    except (TimeoutError, RedisUnavailable) as error:
        silence = error if str(error) else f"Redis did not answer within {CHECK_TIMEOUT_S:g} s"
        if lenient:
            messages.say(f"nothing can be told: {silence}")
            return
        if isinstance(error, RedisUnavailable):
            raise
        raise Problem(str(silence)) from None
    ours = [worker for worker in workers if worker.rsplit(":", 2)[0] == host]
    if not ours:
        raise Problem(
            f"no worker of this host ({host}) is alive", f"To start one: {program.command()} worker"
        )
    messages.say(f"alive: {', '.join(ours)}")


async def _workers(settings: Settings) -> list[str]:
    async with asyncio.timeout(CHECK_TIMEOUT_S), Client(settings=settings) as client:
        return await client.workers()


def check_gateway() -> None:
    """Say whether the gateway that listens here answers. Starts nothing.

    Raises `Problem` when none does.
    """
    settings = Settings.load()
    host = _ANY_ADDRESS.get(settings.gateway_host, settings.gateway_host)
    # Not urllib: that would ask a proxy of the environment.
    connection = http.client.HTTPConnection(host, settings.gateway_port, timeout=CHECK_TIMEOUT_S)
    try:
        with closing(connection):
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        reason = f"no gateway answers at {host}, port {settings.gateway_port}: {error}"
        raise Problem(reason, f"To start one: {program.command()} gateway") from None
    if status != 200:
        raise Problem(f"what answers at {host}, port {settings.gateway_port} says {status}")
    messages.say(f"alive: {host}, port {settings.gateway_port}")


def local_darkai(
    model: Model | None,
    *,
    host: str,
    port: int,
    faults: bool,
    max_chunks: int,
    chunks_per_s: float,
) -> None:
    """Run a local DarkAI until a signal. Raises `Problem`."""
    require("local", "aiohttp")
    from darkq_local.local_darkai import serve
    from darkq_local.models.base import ModelError

    try:
        interrupts.run(
            serve(
                model or Settings.load().local_model,
                host=host,
                port=port,
                faults=faults,
                max_chunks=max_chunks,
                chunks_per_s=chunks_per_s,
            )
        )
    except ModelError as error:
        raise Problem(str(error)) from None
    except OSError as error:
        raise Problem(f"cannot listen on {host}, port {port}: {error.strerror}") from None
