"""`darkq purge` and `darkq queues purge`: counts, asks for confirmation, then purges."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from darkq_cli.terminal import options as opt
from darkq_cli.terminal import output
from darkq_cli.terminal.problems import Problem, wrong_usage
from darkq_cli.terminal.progress import CountProgress
from darkq_cli.terminal.redis import with_client
from darkq_cli.terminal.units import parse_duration

if TYPE_CHECKING:
    from darkq import Client, Purged

    Purge: TypeAlias = Callable[[Client, bool], AsyncGenerator[Purged, None]]
    """Purges with a client, or only counts if the second argument is True."""

app = opt.build_group("purge", "Delete failed jobs, old results, or everything of a tenant.")

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


@app.command()
def failed(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="TIME", help="Only jobs older than: 12h, 30d."),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    _: opt.JsonOption = False,
) -> None:
    """Delete failed jobs, with the prompts that are stored for a retry.

    \b
    darkq purge failed --older-than 1d --dry-run
    """
    age_s = 0.0 if older_than is None else _parse_age(older_than)
    purge(
        lambda client, dry: client.purge.failed(older_than_s=age_s, dry_run=dry),
        "failed jobs",
        "deleted",
        dry_run=dry_run,
        yes=yes,
    )


@app.command()
def results(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Such as 12h, 30d; 0s: all.")
    ],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    _: opt.JsonOption = False,
) -> None:
    """Delete completed and cancelled jobs that ended before this time; not failed ones.

    \b
    darkq purge results --older-than 6h --yes
    """
    age_s = _parse_age(older_than)
    purge(
        lambda client, dry: client.purge.results(older_than_s=age_s, dry_run=dry),
        "results",
        "deleted",
        dry_run=dry_run,
        yes=yes,
    )


@app.command()
def tenant(
    name: Annotated[str, typer.Argument(metavar="TENANT", help="From darkq keys list.")],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    _: opt.JsonOption = False,
) -> None:
    """Cancel the waiting jobs of a tenant, and delete all that have ended.

    Running jobs continue, and the exit code is 1 while there are any. Repeat the command later to
    delete those too. API keys and files of the tenant stay.

    \b
    darkq purge tenant alice --dry-run
    """
    purged = purge(
        lambda client, dry: client.purge.tenant(name, dry_run=dry),
        "jobs",
        "cancelled or deleted",
        dry_run=dry_run,
        yes=yes,
    )
    if purged.left and not dry_run:
        raise Problem(f"{purged.left:,} jobs are running or unreadable; repeat the command later")


def _parse_age(older_than: str) -> float:
    return parse_duration(older_than, "--older-than", allow_zero=True)


def purge(what: Purge, noun: str, verb: str, *, dry_run: bool, yes: bool) -> Purged:
    """Count, ask, purge and print. Raises `Problem` when it cannot ask, `typer.Abort` on no."""
    import asyncio

    words = f"(dry run) {noun} {verb}" if dry_run else f"{noun} {verb}"

    async def work(client: Client) -> Purged:
        if dry_run or not yes:
            counted = await _show_progress(what(client, True), words)
            if dry_run or not counted.purged:
                return counted
            question = f"{counted.purged:,} {noun} will be {verb}. Continue?"
            if not await asyncio.to_thread(typer.confirm, question, err=True):
                raise typer.Abort
        return await _show_progress(what(client, False), words)

    if not (dry_run or yes) and not sys.stdin.isatty():
        raise wrong_usage("no terminal to ask for confirmation: use --yes")
    purged = with_client(work)
    facts = {
        words: purged.purged,
        "left (running or unreadable)": purged.left,
        "examined": purged.looked_at,
    }
    output.write_one(purged, facts, dry_run=dry_run)
    return purged


async def _show_progress(counts: AsyncGenerator[Purged, None], words: str) -> Purged:
    from darkq import Purged

    purged = Purged()
    with CountProgress(words) as progress:
        async with aclosing(counts) as pages:
            async for purged in pages:
                progress.show_count(purged.purged, left=purged.left)
    return purged
