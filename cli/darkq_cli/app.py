"""The tree of the commands, in the groups of `darkq --help`.

Each command imports what it needs when it is called, so that `--help` and completion are fast.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from darkq_cli.batch import commands as batch
from darkq_cli.commands import failed, jobs, keys, observe, purge, queues, system, workers


class _CommandGroups(TyperGroup):
    """Lists the commands in groups, and fits a terminal of 24 lines.

    The groups of users have a line for each command, those of operators two commands on a line.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        formatter.write(f"{(self.help or '').partition(chr(10))[0]}\n\n")
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            group = getattr(command, "rich_help_panel", None) or "Commands"
            text = _SHORT_HELP.get(name) or command.get_short_help_str(_TEXT_CHARS)
            groups.setdefault(group, []).append((name, text))
        for group, rows in groups.items():
            self._write_group(formatter, group, rows)
        formatter.write(f"\n{_FOOTER}")

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _use_plain_names(command)
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # pydantic's, in Typer
            raise

    def _write_group(self, formatter: Any, group: str, rows: list[tuple[str, str]]) -> None:
        width = max(map(len, self.commands)) + 2
        cells = [f"{name:<{width}}{text}" for name, text in rows]
        if group in _DENSE_GROUPS:
            pairs = zip_longest(cells[::2], cells[1::2], fillvalue="")
            cells = [f"{left:<{_CELL_CHARS}}{right}" for left, right in pairs]
        for number, cell in enumerate(cells):
            head = group if number == 0 else ""
            formatter.write(f"{head:<{_GROUP_CHARS}}{cell}".rstrip() + "\n")


def _use_plain_names(command: Any) -> None:
    """Let the usage of a command and its subcommands say PROMPT, where Typer says {PROMPT}."""
    collect = command.collect_usage_pieces
    command.collect_usage_pieces = lambda ctx: [piece.strip("{}") for piece in collect(ctx)]
    for subcommand in getattr(command, "commands", {}).values():
        _use_plain_names(subcommand)


_DENSE_GROUPS = ("Processes", "Operation")
_GROUP_CHARS = 11
_CELL_CHARS = 35
_TEXT_CHARS = 55
_SHORT_HELP = {
    "up": "Run Redis, a local DarkAI and workers, until Ctrl-C.",
    "tail": "Print a job's answer as it arrives.",
    "status": "Print a job's state, and why it waits or has failed.",
    "worker": "Run a worker.",
    "gateway": "Run the HTTP server.",
    "local-darkai": "Run a local DarkAI.",
    "top": "Live overview.",
    "doctor": "Find problems.",
    "upstreams": "Test upstreams.",
    "queues": "Control queues.",
    "workers": "List, drain.",
    "purge": "Delete old jobs.",
    "keys": "Manage API keys.",
}
_FOOTER = """Options:   --help (of each command), --version, --install-completion
Exit code: 0 success, 1 failure, 2 wrong usage, 130 Ctrl-C. Settings: DARKQ_...
"""


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
        *(jobs.run, jobs.enqueue, jobs.tail, jobs.result, jobs.status, jobs.cancel),
        *(failed.failed, failed.retry, batch.app),
    ),
    "Processes": (system.worker, system.gateway, system.local_darkai),
    "Operation": (
        *(observe.top, observe.doctor, observe.upstreams),
        *(queues.app, workers.app, purge.app, keys.app),
    ),
}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, rich_help_panel=_group)
        else:
            app.command(rich_help_panel=_group)(_command)
