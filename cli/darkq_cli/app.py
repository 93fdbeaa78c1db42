"""The `darkq` command and its subcommands.

Each subcommand imports what it needs when it is called, so that `--help` loads next to nothing.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli import (
    failure_commands,
    job_commands,
    key_commands,
    purge_commands,
    system_commands,
    worker_commands,
)
from darkq_cli.batch import commands as batch_commands
from darkq_cli.queues import commands as queue_commands

app = typer.Typer(
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


for _command in (
    system_commands.demo,
    system_commands.up,
    job_commands.run,
    job_commands.enqueue,
    job_commands.tail,
    job_commands.result,
    job_commands.status,
    job_commands.cancel,
    failure_commands.failed,
    failure_commands.retry,
    system_commands.worker,
    system_commands.gateway,
    system_commands.upstreams,
    system_commands.local_darkai,
):
    app.command()(_command)
app.add_typer(batch_commands.app, name="batch")
app.add_typer(key_commands.app, name="keys")
app.add_typer(worker_commands.app, name="workers")
app.add_typer(queue_commands.app, name="queues")
app.add_typer(purge_commands.app, name="purge")
