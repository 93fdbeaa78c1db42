"""`darkq demo`, `up`, `worker`, `gateway` and `local-darkai`: the processes of the system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.terminal import interrupts, messages, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.job_options import read_prompt
from darkq_cli.terminal.problems import Problem, require
from darkq_cli.terminal.redis import RedisTarget, open_redis

if TYPE_CHECKING:
    from darkq import Settings

CHECK_TIMEOUT_S = 5.0
MAX_PROCESSES = 256

ProcessesOption = Annotated[
    int,
    typer.Option(
        "--processes",
        min=1,
        max=MAX_PROCESSES,
        help="How many processes; more than one have a supervisor.",
    ),
]
ReadyFdOption = Annotated[int, typer.Option("--ready-fd", hidden=True)]
"""Set by the supervisor: where a child reports that it is ready."""

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  not bound here


def demo(
    prompt: Annotated[
        str, typer.Argument(metavar="[PROMPT]", help="The prompt.")
    ] = "Write a short poem about spring.",
    model: opt.LocalModelOption = None,
) -> None:
    """Start a local model and send it one prompt.

    \b
    darkq demo
    darkq demo "Why do queues grow?"
    darkq demo --model markov
    """
    from darkq_cli.stack.demo import demo

    demo(read_prompt(prompt), model=model)


def up(
    model: opt.LocalModelOption = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many worker processes.")] = 1,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the local DarkAI.", show_default="a free one"),
    ] = None,
) -> None:
    """Run Redis, a local DarkAI and workers here, until Ctrl-C.

    When DARKQ_REDIS_URL or DARKQ_DARKAI_URL is set, it uses that instead of starting one.

    \b
    darkq up
    darkq up --workers 2
    DARKQ_DARKAI_URL=https://darkai.foundation/chat darkq up
    """
    from darkq_cli.stack.up import up

    up(model=model, port=port, workers=workers)


def worker(
    check: Annotated[
        bool, typer.Option("--check", help="Only check whether a worker of this host is alive.")
    ] = False,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="With --check: exit with 0 if Redis does not answer.")
    ] = False,
    processes: ProcessesOption = 1,
    ready_fd: ReadyFdOption = -1,
) -> None:
    """Run a worker until Ctrl-C or SIGTERM. Its log goes to stderr.

    After the signal it stops claiming. Running jobs get DARKQ_WORKER_SHUTDOWN_GRACE_S seconds to
    end. Those that do not end go back to the queue. A second signal skips the wait.

    With --processes, a supervisor passes signals on, and restarts a process that ends.

    \b
    DARKQ_REDIS_URL=redis://localhost darkq worker
    darkq worker --processes 4
    darkq worker --check
    darkq worker --check --lenient       # for liveness: do not restart it when Redis is down
    """
    if check or lenient:
        _check_worker(lenient=lenient)
        return
    require("worker")
    from darkq import Settings
    from darkq_cli.stack.supervisor import report_ready
    from darkq_worker.main import main

    settings = Settings.load()
    with open_redis(settings) as redis:
        if processes > 1:
            raise typer.Exit(_supervise(["worker"], processes, settings, redis))
        main(redis.settings, started=lambda: report_ready(ready_fd))


def _supervise(arguments: list[str], processes: int, settings: Settings, redis: RedisTarget) -> int:
    """Run a command in several processes, with this Redis. Return the exit code."""
    from darkq.telemetry.logging import configure_logging
    from darkq_cli.stack.supervisor import supervise

    configure_logging(settings.log_format, "INFO")
    environment = {}
    if settings.redis_url is None and redis.settings.redis_url is not None:  # an embedded one
        environment["DARKQ_REDIS_URL"] = redis.settings.redis_url.get_secret_value()
    return supervise(arguments, processes, environment=environment)


def _check_worker(*, lenient: bool) -> None:
    """Check without starting a Redis or writing to one. Raises `Problem` if no worker is alive."""
    import asyncio
    import socket

    from darkq import Client, RedisUnavailable, Settings

    async def list_workers() -> list[str]:
        settings = Settings.load()
        async with asyncio.timeout(CHECK_TIMEOUT_S), Client(settings=settings) as client:
            return await client.workers()

    host = socket.gethostname()
    try:
        workers = interrupts.run(list_workers())
    except (TimeoutError, RedisUnavailable) as error:
        reason = str(error) or f"Redis did not answer within {CHECK_TIMEOUT_S:g} s"
        if lenient:
            messages.say(f"the state is unknown: {reason}")
            return
        if isinstance(error, RedisUnavailable):
            raise
        raise Problem(reason) from None
    ours = [worker for worker in workers if worker.rsplit(":", 2)[0] == host]
    if not ours:
        raise Problem(
            f"no worker of this host ({host}) is alive", f"To start one: {program.command()} worker"
        )
    messages.say(f"alive: {', '.join(ours)}")


def gateway(
    check: Annotated[
        bool, typer.Option("--check", help="Only check whether the gateway here answers.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="DARKQ_GATEWAY_HOST")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 0 is a free one.", show_default="DARKQ_GATEWAY_PORT"
        ),
    ] = None,
    processes: ProcessesOption = 1,
    ready_fd: ReadyFdOption = -1,
) -> None:
    """Run the HTTP server until Ctrl-C or SIGTERM. Its log goes to stderr.

    It serves jobs and their events on DARKQ_GATEWAY_HOST and DARKQ_GATEWAY_PORT. Without an API key
    it listens on loopback only, and serves every client there.

    With --processes, all processes listen on the same port, and the kernel spreads connections
    over them. A supervisor passes signals on, and restarts a process that ends.

    \b
    darkq gateway
    darkq keys create alice; darkq gateway --host 0.0.0.0
    darkq gateway --processes 4
    darkq gateway --check
    """
    from darkq import Settings

    given = {"gateway_host": host, "gateway_port": port}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = Settings.load().model_copy(update=changes)
    if check:
        _check_gateway(settings)
        return
    require("gateway")
    from darkq_cli.stack.supervisor import report_ready, reserve_port
    from darkq_gateway.serve import main

    with open_redis(settings) as redis:
        if processes > 1:
            with reserve_port(settings.gateway_host, settings.gateway_port) as shared:
                arguments = ["gateway", "--host", settings.gateway_host, "--port", str(shared)]
                raise typer.Exit(_supervise(arguments, processes, settings, redis))
        main(redis.settings, started=lambda _: report_ready(ready_fd), shares_port=ready_fd >= 0)


def _check_gateway(settings: Settings) -> None:
    """Check without starting anything. Raises `Problem` if no gateway answers."""
    import http.client
    from contextlib import closing

    host = _ANY_ADDRESS.get(settings.gateway_host, settings.gateway_host)
    # urllib would send the request to a proxy that the environment names.
    connection = http.client.HTTPConnection(host, settings.gateway_port, timeout=CHECK_TIMEOUT_S)
    try:
        with closing(connection):
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        reason = f"no gateway answers at {host}, port {settings.gateway_port}: {error}"
        raise Problem(reason, f"To start one: {program.command()} gateway") from None
    if status != 200:
        raise Problem(f"the server at {host}, port {settings.gateway_port} answers {status}")
    messages.say(f"alive: {host}, port {settings.gateway_port}")


def local_darkai(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    model: opt.LocalModelOption = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Let requests ask for faults, to test clients.")
    ] = False,
    max_chunks: Annotated[
        int, typer.Option(min=1, help="Maximum number of chunks in an answer.")
    ] = 256,
    pace: Annotated[
        float, typer.Option(min=0, help="Chunks per second of markov; 0 is without a limit.")
    ] = 20.0,
) -> None:
    """Run a DarkAI on this machine, with a small local model.

    \b
    darkq local-darkai --port 8088
    DARKQ_DARKAI_URL=http://127.0.0.1:8088/chat darkq worker
    """
    require("local")
    from darkq import Settings
    from darkq_local.local_darkai import serve
    from darkq_local.models.base import ModelError

    kind = model or Settings.load().local_model
    server = serve(
        kind, host=host, port=port, faults=faults, max_chunks=max_chunks, chunks_per_s=pace
    )
    try:
        interrupts.run(server)
    except ModelError as error:
        raise Problem(str(error)) from None
    except OSError as error:
        raise Problem(f"cannot listen on {host}, port {port}: {error.strerror}") from None
