"""The tree of the commands, in the groups of `darkq --help`.

Each command imports what it needs when it is called, so that `--help` and completion are fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from darkq_cli.batch import commands as batch
from darkq_cli.commands import (
    doctor,
    failed,
    jobs,
    keys,
    purge,
    queues,
    system,
    top,
    upstreams,
    workers,
)


class _CommandGroups(TyperGroup):
    """Lists the commands in groups. Typer does that only with its rich panels."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            text = command.get_short_help_str(formatter.width - width - 6)
            group = getattr(command, "rich_help_panel", None) or "Commands"
            groups.setdefault(group, []).append((name.ljust(width), text))
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=_CommandGroups,
    no_args_is_help=True,
    rich_markup_mode=None,  # importing rich triples the time of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"darkq {version('darkq')}")
        raise typer.Exit


@app.callback()
def darkq(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Background text generation that you can reconnect to.

    \b
    Try it:                     darkq demo
    Run it on this machine:     darkq up
    Send a prompt:              darkq run "Write a haiku about queues."

    Text and JSON go to stdout, messages to stderr. Exit codes: 0 success, 1 failure, 2 wrong usage,
    130 Ctrl-C. Settings are variables DARKQ_... or lines of .env. Without DARKQ_REDIS_URL, a
    command starts a Redis on this machine, and its last user stops it.
    """


_GROUPS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Start": (system.demo, system.up),
    "Jobs": (
        jobs.run,
        jobs.enqueue,
        jobs.tail,
        jobs.result,
        jobs.status,
        jobs.cancel,
        failed.failed,
        failed.retry,
        batch.app,
    ),
    "Processes": (system.worker, system.gateway, system.local_darkai),
    "Operation": (
        top.top,
        doctor.doctor,
        upstreams.upstreams,
        queues.app,
        workers.app,
        purge.app,
        keys.app,
    ),
}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, rich_help_panel=_group)
        else:
            app.command(rich_help_panel=_group)(_command)
