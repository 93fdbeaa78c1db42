"""`darkq upstreams`: calls each upstream, and prints which of them work now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.terminal import interrupts, messages, output, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.problems import Problem, require

if TYPE_CHECKING:
    from darkq import Settings, UpstreamStatus
    from darkq_cli.doctor.probes import Probe


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
    lines = [probe.reason, f"models: {models}" if models else ""]
    return "\n".join(line for line in lines if line)


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
