"""The commands about failed jobs: their options and help. What they do is in `failures`."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import options as opt


def failed(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")
    ] = 50,
    as_json: opt.JsonOption = False,
) -> None:
    """List the jobs that have failed, the latest first.

    \b
    darkq failed
    darkq failed --limit 1000 --json | jq -r .code | sort | uniq -c
    """
    from darkq_cli.commands import failed as failures

    failures.failed(limit=limit, as_json=as_json)


def retry(
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="As darkq failed shows them.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All that have failed and are kept.")
    ] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Run jobs again that have failed.

    A job keeps its id, and its tries begin anew. Prints the ids of the jobs that wait again.

    \b
    darkq retry $id
    darkq retry --all
    """
    from darkq_cli.commands import failed as failures

    failures.retry(job_ids or [], every=every, as_json=as_json)
