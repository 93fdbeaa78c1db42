"""The commands that forget what has ended: their options and help. `purging` does it."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import options as opt

app = typer.Typer(
    name="purge",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Forget failed jobs, old results, or all that a tenant has.",
)

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only count what would be purged; change nothing.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def failed(
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="As 12h, 30d.")
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Forget jobs that have failed, with the prompts that are kept to run them again.

    \b
    darkq purge failed --older-than 1d --dry-run
    """
    from darkq_cli.commands import purge as purging

    purging.failed(older_than, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def results(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="As 12h, 30d; 0s: all.")
    ],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Forget answers and cancelled jobs that ended so long ago; not what has failed.

    \b
    darkq purge results --older-than 6h --yes
    """
    from darkq_cli.commands import purge as purging

    purging.results(older_than, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def tenant(
    name: Annotated[str, typer.Argument(metavar="TENANT", help="As in darkq keys list.")],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Cancel what a tenant has waiting, and forget all that has ended, failed or not.

    What runs goes on: the exit code is 1 while some does, and to say it again forgets that too. The
    tenant's API keys and files stay.

    \b
    darkq purge tenant alice --dry-run
    """
    from darkq_cli.commands import purge as purging

    purging.tenant(name, dry_run=dry_run, yes=yes, as_json=as_json)
