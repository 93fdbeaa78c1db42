"""`darkq top`: shows queues, workers, upstreams and throughput, live."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import interrupts, messages, output
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.redis import open_redis


def top(
    interval_s: Annotated[
        float,
        typer.Option("--interval-s", metavar="S", min=0.1, max=3600, help="Seconds between reads."),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one reading, and exit.")] = False,
    _: opt.JsonOption = False,
) -> None:
    """Show queues, workers, upstreams and throughput, live.

    Ctrl-C or q ends it. In a pipe or a file it prints plain tables, one after the other. While
    Redis does not answer, it shows since when, and retries.

    \b
    darkq top
    darkq top --once
    darkq top --json --interval-s 10 >> top.jsonl
    """
    from darkq import Settings
    from darkq_cli.top import watch
    from darkq_cli.top.panel import print_plain

    with open_redis(Settings.load()) as redis:
        if once:
            reading = interrupts.run(watch.read_once(redis.settings))
            (output.write_json if messages.as_json else print_plain)(reading)
        else:
            interrupts.run(watch.watch(redis, interval_s))
