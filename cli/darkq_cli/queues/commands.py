"""The commands about queues: their options and help. What they do is in other rooms."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import options as opt

app = typer.Typer(
    name="queues",
    invoke_without_command=True,
    rich_markup_mode=None,
    help="Show the queues; pause, drain, move and purge them.",
)

QueueArgument = Annotated[
    opt.Priority, typer.Argument(metavar="QUEUE", help="interactive or bulk.", show_default=False)
]
WhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="A line for those who wonder.")
]
ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who says so.", show_default="user@host"),
]


@app.callback()
def queues(context: typer.Context, as_json: opt.JsonOption = False) -> None:
    """Show how the queues stand; pause, drain, move and purge them.

    \b
    darkq queues
    darkq queues pause bulk --why "the upstream is being moved"
    """
    from darkq_cli.queues import standing

    if context.invoked_subcommand is None:
        standing.list_(as_json=as_json)


@app.command("list")
def list_(as_json: opt.JsonOption = False) -> None:
    """Show how many jobs wait, are deferred and run, and what operators have said.

    \b
    darkq queues list --json | jq 'select(.paused)'
    """
    from darkq_cli.queues import standing

    standing.list_(as_json=as_json)


@app.command()
def pause(
    queue: QueueArgument,
    why: WhyOption = "",
    by: ByOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Let no worker begin a job of a queue, until it is resumed.

    What runs goes on. Jobs may still be enqueued, and cancelled. It outlives every restart.

    \b
    darkq queues pause bulk --why "the upstream is being moved"
    """
    from darkq_cli.queues import standing

    standing.pause(queue, why=why, by=by, as_json=as_json)


@app.command()
def resume(queue: QueueArgument, as_json: opt.JsonOption = False) -> None:
    """Let workers begin jobs of a queue again, at once.

    \b
    darkq queues resume bulk
    """
    from darkq_cli.queues import standing

    standing.take_back("resume", queue, as_json=as_json)


@app.command()
def drain(
    queue: QueueArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how it empties, and exit when it is.")
    ] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout-s", metavar="S", min=0, help="Wait no longer; exit code 1."),
    ] = None,
    why: WhyOption = "",
    by: ByOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Close a queue to new jobs, and let those that it has run out.

    Whoever enqueues gets QueueClosed, over HTTP a 503, until the queue is opened. Ctrl-C ends the
    waiting, and leaves the queue closed.

    \b
    darkq queues drain bulk --wait
    darkq queues open bulk
    """
    from darkq_cli.queues import standing

    standing.drain(queue, wait=wait, timeout_s=timeout_s, why=why, by=by, as_json=as_json)


@app.command("open")
def open_(queue: QueueArgument, as_json: opt.JsonOption = False) -> None:
    """Take new jobs again, after drain.

    \b
    darkq queues open bulk
    """
    from darkq_cli.queues import standing

    standing.take_back("open", queue, as_json=as_json)


@app.command()
def move(
    queue: QueueArgument,
    to: Annotated[
        opt.Priority | None, typer.Option("--to", metavar="QUEUE", help="The other queue.")
    ] = None,
    to_url: Annotated[
        str | None,
        typer.Option(
            "--to-url",
            metavar="URL",
            envvar="DARKQ_MOVE_TO_URL",
            help="Another Redis; a password is safer in DARKQ_MOVE_TO_URL.",
        ),
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="Put back what an earlier move has left on its way.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Move no more.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be moved, and what would stay.")
    ] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Move the waiting jobs of a queue to the other one, or to another Redis.

    Another Redis: the queue must be paused, and closed by drain. Jobs keep their ids and all that
    is known of them; what runs stays, and so do lines of batches. It may be interrupted at any
    point, and goes on when it is called again.

    \b
    darkq queues move bulk --to interactive --limit 100
    darkq queues pause bulk; darkq queues drain bulk
    darkq queues move bulk --to-url redis://new.internal:6379/0
    """
    from darkq_cli.queues import moving

    moving.move(
        queue, to=to, to_url=to_url, back=back, limit=limit, dry_run=dry_run, as_json=as_json
    )


@app.command()
def purge(
    queue: QueueArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be cancelled.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Cancel the jobs of a queue that wait or are deferred; what runs goes on.

    Each ends as cancelled: whoever waits for it hears of that. For what has ended: darkq purge.

    \b
    darkq queues purge bulk --dry-run
    """
    from darkq_cli.commands import purge as purging

    purging.queue(queue, dry_run=dry_run, yes=yes, as_json=as_json)
