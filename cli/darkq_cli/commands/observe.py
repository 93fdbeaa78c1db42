"""`darkq doctor`, `upstreams` and `top`: they look at the system, and change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.terminal import interrupts, messages, output, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.problems import Problem, require
from darkq_cli.terminal.redis import open_redis

if TYPE_CHECKING:
    from darkq import Settings, UpstreamStatus
    from darkq_cli.doctor.checks import CheckResult
    from darkq_cli.doctor.probes import Probe


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
    from darkq_cli.doctor.examine import load_and_examine
    from darkq_cli.doctor.report import Report

    verdicts = Counter[str]()
    report = Report()
    show: Callable[[CheckResult], None] = output.write_json if messages.as_json else report.show

    async def show_results() -> None:
        async with aclosing(load_and_examine(call_upstreams=not no_probe)) as results:
            async for result in results:
                verdicts[result.verdict] += 1
                show(result)

    interrupts.run(show_results())
    report.end()
    counts = ", ".join(
        f"{verdicts[verdict]} {verdict}{'s' if verdicts[verdict] != 1 else ''}"
        for verdict in ("problem", "warning")
    )
    if verdicts["problem"]:
        raise Problem(counts)
    messages.say(counts, verdicts=dict(verdicts))


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

    with open_redis(Settings.load()) as redis:
        if once:
            reading = interrupts.run(watch.read_once(redis.settings))
            (output.write_json if messages.as_json else watch.print_plain)(reading)
        else:
            interrupts.run(watch.watch(redis, interval_s))


def upstreams(
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", metavar="S", min=0.1, help="Seconds for each upstream.")
    ] = 15.0,
    _: opt.JsonOption = False,
) -> None:
    """Check which upstreams work now, with a short call to each.

    Each call counts in the limits of its upstream. The exit code is 1 if none works.

    \b
    darkq upstreams
    darkq upstreams --json
    """
    require("worker")
    from darkq import Settings
    from darkq_cli.doctor.probes import probe_upstreams
    from darkq_cli.terminal.local_darkai import use_running_darkai

    settings = use_running_darkai(Settings.load())
    probes = interrupts.run(probe_upstreams(settings, timeout_s))
    if messages.as_json:
        for probe in probes:
            output.write_json(probe.as_json())
    else:
        headings = ("upstream", "works", "after", "workers", "in use")
        output.write_table(headings, map(_build_row, probes), map(_build_note, probes))
    if not any(probe.works for probe in probes):
        called = any(probe.works is False for probe in probes)
        raise Problem(
            "no upstream works now" if called else "no upstream can be called now",
            _build_hint(settings),
        )


def _build_hint(settings: Settings) -> str:
    """Return what to do about DarkAI's public service, which is the default."""
    if settings.darkai_url != type(settings).model_fields["darkai_url"].default:
        return ""
    return (
        "The public service of DarkAI has not answered since 2025.\n"
        f"To run a local one: {program.command()} up\n"
        "To use another: DARKQ_DARKAI_URL, or DARKQ_UPSTREAMS__NAME__URL"
    )


def _build_row(probe: Probe) -> Sequence[str]:
    status = probe.status
    word, style = {True: ("yes", "green"), False: ("no", "red"), None: ("?", "")}[probe.works]
    works, workers = output.Cell(word, style), str(status.workers)
    latency = "-" if probe.works is None else f"{probe.latency_s:.2f} s"
    return status.name, works, latency, workers, _describe_limits(status)


def _build_note(probe: Probe) -> str:
    models = _list_models(probe.status)
    return "\n".join(filter(None, (probe.reason, models and f"models: {models}")))


def _list_models(status: UpstreamStatus) -> str:
    """List the models; the default one, if it is known yet, is the first."""
    others = [model for model in status.models if model != status.default_model]
    default = [f"{status.default_model} (default)"] if status.default_model else []
    return ", ".join([*default, *others])


def _describe_limits(status: UpstreamStatus) -> str:
    """Describe how much of the limits is in use, and a breaker that is not closed."""
    words = [f"{window.used}/{window.calls} in {window.length_s:g} s" for window in status.windows]
    if status.concurrency:
        words.append(f"{status.in_progress}/{status.concurrency} concurrent")
    if status.breaker != "closed":
        words.append(f"breaker {status.breaker}")
    if status.waiting:
        words.append(f"{status.waiting} deferred")
    return ", ".join(words)
