"""The commands for whoever runs the system: their options and help. What they do is elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import options as opt


def top(
    interval_s: Annotated[
        float,
        typer.Option("--interval-s", metavar="S", min=0.1, max=3600, help="Seconds in between."),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One reading, and no screen.")] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Show queues, workers, upstreams and throughput, live.

    Ctrl-C or q ends it. Into a pipe or a file go plain tables, one after the other. While Redis is
    away it says since when, and goes on when it is back.

    \b
    darkq top
    darkq top --once
    darkq top --json --interval-s 10 >> top.jsonl
    """
    from darkq_cli.top.command import top

    top(interval_s=interval_s, once=once, as_json=as_json)


def doctor(
    no_probe: Annotated[
        bool, typer.Option("--no-probe", help="Ask no upstream: that costs a call of its limits.")
    ] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Look for what is wrong, and say how to mend it. Changes nothing.

    Settings, this machine, Redis, workers, queues, upstreams. Exits with 1 when something is a
    problem; warnings alone are none. docs/doctor.md tells of each check.

    \b
    darkq doctor
    darkq doctor --json | jq 'select(.verdict == "problem")'
    """
    from darkq_cli.doctor.command import doctor

    doctor(ask_upstreams=not no_probe, as_json=as_json)
