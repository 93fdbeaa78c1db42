"""The commands for whoever runs the system: their options and help. What they do is elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli import options as opt


def top(
    interval_s: Annotated[
        float,
        typer.Option("--interval-s", metavar="S", min=0.1, max=3600, help="Seconds in between."),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One reading, and no screen.")] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Show queues, workers, upstreams and throughput, live, until Ctrl-C.

    Into a pipe or a file go plain tables, one after the other. While Redis is away it says since
    when, and goes on when it is back.

    \b
    darkq top
    darkq top --once
    darkq top --json --interval-s 10 >> top.jsonl
    """
    from darkq_cli.top.command import top

    top(interval_s=interval_s, once=once, as_json=as_json)
