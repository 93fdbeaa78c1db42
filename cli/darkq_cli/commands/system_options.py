"""The commands about what runs jobs: their options and help. What they do is in other rooms."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import options as opt


def demo(
    prompt: Annotated[
        str, typer.Argument(metavar="[PROMPT]", help="What to ask.")
    ] = "Write a short poem about spring.",
    model: opt.LocalModelOption = None,
) -> None:
    """See it work: a local model, asked here and now.

    \b
    darkq demo
    darkq demo "Why do queues grow?"
    darkq demo --model markov
    """
    from darkq_cli.commands.jobs import prompt_of
    from darkq_cli.stack.demo import demo

    demo(prompt_of(prompt), model=model)


def up(
    model: opt.LocalModelOption = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many processes.")] = 1,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of the local DarkAI.", show_default="a free one"),
    ] = None,
) -> None:
    """Run Redis, a local DarkAI and workers here, until Ctrl-C.

    With DARKQ_REDIS_URL or DARKQ_DARKAI_URL set, those are used and not started.

    \b
    darkq up
    darkq up --workers 2
    DARKQ_DARKAI_URL=https://darkai.foundation/chat darkq up
    """
    from darkq_cli.stack.up import up

    up(model=model, port=port, workers=workers)


def worker(
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether a worker of this host is alive.")
    ] = False,
    lenient: Annotated[
        bool,
        typer.Option("--lenient", help="With --check: where Redis does not answer, exit with 0."),
    ] = False,
) -> None:
    """Run a worker until Ctrl-C or SIGTERM. Its log goes to stderr.

    It then takes no more jobs, gives those that run DARKQ_WORKER_SHUTDOWN_GRACE_S seconds, and
    hands back the rest. A second signal ends the grace.

    \b
    DARKQ_REDIS_URL=redis://localhost darkq worker
    darkq worker --check
    darkq worker --check --lenient       # whether to restart it: an outage of Redis is no reason
    """
    from darkq_cli.stack import servers

    if check or lenient:
        servers.check_worker(lenient=lenient)
    else:
        servers.worker()


def gateway(
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether the gateway here answers.")
    ] = False,
) -> None:
    """Run the HTTP server until Ctrl-C or SIGTERM. Its log goes to stderr.

    Jobs and their events over HTTP, on DARKQ_GATEWAY_HOST and DARKQ_GATEWAY_PORT. Without an API
    key it listens on loopback alone, and serves anybody there.

    \b
    darkq gateway
    darkq keys create alice; DARKQ_GATEWAY_HOST=0.0.0.0 darkq gateway
    darkq gateway --check
    """
    from darkq_cli.stack import servers

    if check:
        servers.check_gateway()
    else:
        servers.gateway()


def upstreams(
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", metavar="S", min=0.1, help="Seconds for each.")
    ] = 15.0,
    as_json: opt.JsonOption = False,
) -> None:
    """Tell which upstreams work now: each is asked for a word.

    That costs one call of each one's rate limit. Exits with 1 when none works.

    \b
    darkq upstreams
    darkq upstreams --json
    """
    from darkq_cli.commands.upstreams import upstreams

    upstreams(timeout_s=timeout_s, as_json=as_json)


def local_darkai(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free one.")
    ] = 0,
    host: Annotated[str, typer.Option(help="On which address.")] = "127.0.0.1",
    model: opt.LocalModelOption = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Let requests ask for faults, to test clients.")
    ] = False,
    max_chunks: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 256,
    pace: Annotated[
        float, typer.Option(min=0, help="Chunks per second of markov; 0: as fast as it can.")
    ] = 20.0,
) -> None:
    """Run a DarkAI here: the same wire, a small local model.

    \b
    darkq local-darkai --port 8088
    DARKQ_DARKAI_URL=http://127.0.0.1:8088/chat darkq worker
    """
    from darkq_cli.stack import servers

    servers.local_darkai(
        model, host=host, port=port, faults=faults, max_chunks=max_chunks, chunks_per_s=pace
    )
