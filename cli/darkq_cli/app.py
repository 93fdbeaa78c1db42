"""The `darkq` command and its subcommands.

Each subcommand imports what it needs when it is called, so that `--help` loads next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from darkq_cli.batch import commands as batch_commands
from darkq_cli.commands import (
    failed_options as failure_commands,
)
from darkq_cli.commands import (
    job_options as job_commands,
)
from darkq_cli.commands import (
    key_options as key_commands,
)
from darkq_cli.commands import (
    operator_options as operator_commands,
)
from darkq_cli.commands import (
    purge_options as purge_commands,
)
from darkq_cli.commands import (
    system_options as system_commands,
)
from darkq_cli.commands import (
    worker_options as worker_commands,
)
from darkq_cli.queues import commands as queue_commands


class _InGroups(TyperGroup):
    """Lists the commands in groups. Typer itself does so with its panels only."""

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
    cls=_InGroups,
    no_args_is_help=True,
    rich_markup_mode=None,  # its panels triple the time of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"darkq {version('darkq')}")
        raise typer.Exit


@app.callback()
def darkq(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Background text generation that you can reconnect to.

    \b
    See it work:            darkq demo
    Run it here:            darkq up
    Ask, from elsewhere:    darkq run "Write a haiku about queues."

    Text and JSON go to stdout, remarks to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,
    130 Ctrl-C. Settings are variables DARKQ_... or lines of .env; without DARKQ_REDIS_URL a
    Redis is started here while it is needed.
    """


_GROUPS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Begin": (system_commands.demo, system_commands.up),
    "Jobs": (
        job_commands.run,
        job_commands.enqueue,
        job_commands.tail,
        job_commands.result,
        job_commands.status,
        job_commands.cancel,
        failure_commands.failed,
        failure_commands.retry,
        batch_commands.app,
    ),
    "Processes": (system_commands.worker, system_commands.gateway, system_commands.local_darkai),
    "Operation": (
        operator_commands.top,
        operator_commands.doctor,
        system_commands.upstreams,
        queue_commands.app,
        worker_commands.app,
        purge_commands.app,
        key_commands.app,
    ),
}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, rich_help_panel=_group)
        else:
            app.command(rich_help_panel=_group)(_command)
