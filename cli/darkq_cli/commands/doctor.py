"""`darkq doctor`: runs the checks and prints their results as they arrive."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.terminal import interrupts, messages, output
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkq_cli.doctor.checks import CheckResult


def doctor(
    no_probe: Annotated[
        bool,
        typer.Option("--no-probe", help="Do not call upstreams: a call counts in their limits."),
    ] = False,
    _: opt.JsonOption = False,
) -> None:
    """Find problems, and print what to do about them. Changes nothing.

    It checks settings, this machine, Redis, workers, queues and upstreams. The exit code is 1 if
    there is a problem; warnings alone leave it 0. docs/doctor.md explains each check.

    \b
    darkq doctor
    darkq doctor --json | jq 'select(.verdict == "problem")'
    """
    verdicts = interrupts.run(_print_results(call_upstreams=not no_probe))
    counts = ", ".join(
        f"{verdicts[verdict]} {verdict}{'s' if verdicts[verdict] != 1 else ''}"
        for verdict in ("problem", "warning")
    )
    if verdicts["problem"]:
        raise Problem(counts)
    messages.say(counts, verdicts=dict(verdicts))


async def _print_results(*, call_upstreams: bool) -> Counter[str]:
    from darkq_cli.doctor.examine import load_and_examine
    from darkq_cli.doctor.report import Report

    verdicts: Counter[str] = Counter()
    report = Report()
    show: Callable[[CheckResult], None] = output.write_json if messages.as_json else report.show
    async with aclosing(load_and_examine(call_upstreams=call_upstreams)) as results:
        async for result in results:
            verdicts[result.verdict] += 1
            show(result)
    report.end()
    return verdicts
