"""`darkq queues`: shows, pauses, drains, moves and purges queues."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.commands.purge import DryRunOption, YesOption
from darkq_cli.commands.purge import purge as purge_jobs
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.problems import Problem, wrong_usage
from darkq_cli.terminal.progress import CountProgress
from darkq_cli.terminal.redis import with_client
from darkq_cli.terminal.units import format_duration, format_time

if TYPE_CHECKING:
    from darkq import Backlog, Client, QueueHandle, QueueStatus
    from darkq.operate.queue_state import Notice

app = opt.build_group("queues", "Show, pause, drain, move and purge queues.", has_default=True)

QueueArgument = Annotated[
    opt.Priority, typer.Argument(metavar="QUEUE", help="interactive or bulk.", show_default=False)
]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, in one line.")]


@app.callback()
def queues(context: typer.Context, _: opt.JsonOption = False) -> None:
    """Show the queues; pause, drain, move and purge them.

    \b
    darkq queues
    darkq queues pause bulk --why "the upstream is being moved"
    """
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(_: opt.JsonOption = False) -> None:
    """Show how many jobs wait, are deferred and run, and which queues are paused or closed.

    \b
    darkq queues list --json | jq 'select(.paused)'
    """
    _print(with_client(lambda client: client.queues()))


@app.command()
def pause(
    queue: QueueArgument, why: WhyOption = "", by: opt.ByOption = None, _: opt.JsonOption = False
) -> None:
    """Stop workers from claiming jobs of a queue, until it is resumed.

    Running jobs continue. Jobs can still be enqueued and cancelled. A restart of any process does
    not resume the queue.

    \b
    darkq queues pause bulk --why "the upstream is being moved"
    """
    _print([with_client(lambda client: client.queue(queue).pause(why=why, by=by))])


@app.command()
def resume(queue: QueueArgument, _: opt.JsonOption = False) -> None:
    """Let workers claim jobs of a paused queue again, at once.

    \b
    darkq queues resume bulk
    """
    _print([with_client(lambda client: client.queue(queue).resume())])


@app.command()
def drain(
    queue: QueueArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress, and exit when the queue is empty.")
    ] = False,
    timeout_s: opt.DrainTimeoutOption = None,
    why: WhyOption = "",
    by: opt.ByOption = None,
    _: opt.JsonOption = False,
) -> None:
    """Close a queue to new jobs, while workers finish the jobs that it has.

    Producers get QueueClosed, over HTTP a 503, until the queue is opened. Ctrl-C stops the waiting;
    the queue stays closed.

    \b
    darkq queues drain bulk --wait
    darkq queues open bulk
    """

    async def close(client: Client) -> QueueStatus:
        status = await client.queue(queue).close(why=why, by=by)
        return await _wait_until_empty(client, queue, timeout_s) if wait else status

    status = with_client(close)
    _print([status])
    if not messages.as_json:
        messages.say(
            f"New jobs are refused. To accept them again: {program.command()} queues open {queue}"
        )
    left = _count_jobs(status)
    if wait and left:
        raise Problem(f"{left:,} jobs are left after {timeout_s:g} s; the queue stays closed")


async def _wait_until_empty(
    client: Client, priority: opt.Priority, timeout_s: float | None
) -> QueueStatus:
    import asyncio

    first = status = await client.queue(priority).status()
    if status.paused:
        messages.say(
            "the queue is paused, so it will not become empty; to resume it: "
            f"{program.command()} queues resume {priority}"
        )
    statuses = client.queue(priority).draining()
    try:
        async with asyncio.timeout(timeout_s), aclosing(statuses):
            with CountProgress("jobs have ended", total=_count_jobs(first)) as progress:
                async for status in statuses:
                    progress.show_count(
                        max(0, _count_jobs(first) - _count_jobs(status)),
                        waiting=status.waiting,
                        deferred=status.deferred,
                        running=status.running,
                    )
    except TimeoutError:
        pass
    return status


@app.command("open")
def open_(queue: QueueArgument, _: opt.JsonOption = False) -> None:
    """Accept new jobs again, after drain.

    \b
    darkq queues open bulk
    """
    _print([with_client(lambda client: client.queue(queue).open())])


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
            help="Another Redis. A URL with a password is safer in DARKQ_MOVE_TO_URL.",
        ),
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="Return the jobs that an interrupted move has taken out.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Maximum number of jobs to move."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the jobs that would move or stay.")
    ] = False,
    _: opt.JsonOption = False,
) -> None:
    """Move the waiting jobs of a queue to the other queue, or to another Redis.

    For another Redis, first pause the queue and close it with drain. Jobs keep their ids and all
    their data. Running jobs and lines of batches stay. After an interruption, repeat the command.

    \b
    darkq queues move bulk --to interactive --limit 100
    darkq queues pause bulk; darkq queues drain bulk
    darkq queues move bulk --to-url redis://new.internal:6379/0
    """
    if (to is not None) + (to_url is not None) + back != 1:
        raise wrong_usage("move needs one of --to QUEUE, --to-url URL and --back")
    from pydantic import SecretStr

    from darkq import Client, Settings

    async def move_jobs(client: Client) -> None:
        handle = client.queue(queue)
        if back:
            count = await handle.give_back()
            if messages.as_json:
                output.write_json({"given_back": count})
            else:
                text = f"{count:,} jobs are back in their queue. To see whether it is paused: "
                messages.say(f"{text}{program.command()} queues")
        elif dry_run:
            await _show_moves(handle.backlog(), "jobs would be moved", dry_run=True)
        elif to_url is not None:
            settings = Settings.load().model_copy(update={"redis_url": SecretStr(to_url)})
            async with Client(settings=settings) as target:
                await _move(handle, target.queue(queue), limit)
        elif to is not None:
            await _move(handle, client.queue(to), limit)

    with_client(move_jobs)


async def _move(queue: QueueHandle, target: QueueHandle, limit: int | None) -> None:
    import asyncio

    try:
        await _show_moves(queue.move_to(target, limit=limit), "jobs moved")
    except asyncio.CancelledError:
        messages.leave_line()
        messages.say("No job is lost and none runs twice. To continue, repeat the command.")
        raise
    left = await queue.status()
    if left.moving:
        messages.say(f"{left.moving:,} jobs are still being moved; repeat the command")


async def _show_moves(
    counts: AsyncGenerator[Backlog, None], words: str, *, dry_run: bool = False
) -> None:
    from darkq import Backlog

    moves = Backlog()
    with CountProgress(words) as progress:
        async with aclosing(counts) as pages:
            async for moves in pages:
                progress.show_count(
                    moves.moved, keys=moves.keys, running=moves.running, lines=moves.lines
                )
    facts = {
        words: moves.moved,
        "idempotency keys": moves.keys,
        "stay: running": moves.running,
        "stay: lines of batches": moves.lines,
        "stay: expired": moves.expired,
    }
    output.write_one(moves, facts, dry_run=dry_run)


@app.command()
def purge(
    queue: QueueArgument,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    _: opt.JsonOption = False,
) -> None:
    """Cancel the waiting and deferred jobs of a queue; running jobs continue.

    Each job ends as cancelled, and its readers receive that. To delete jobs that have ended, use
    darkq purge.

    \b
    darkq queues purge bulk --dry-run
    """
    purge_jobs(
        lambda client, dry: client.queue(queue).purge(dry_run=dry),
        f"waiting jobs of {queue}",
        "cancelled",
        dry_run=dry_run,
        yes=yes,
    )


def _print(queues: list[QueueStatus]) -> None:
    headings = ("queue", "waiting", "deferred", "running", "oldest waits", "state")
    output.write_list(queues, headings, _build_row, _describe_marks)


def _build_row(queue: QueueStatus) -> Sequence[str]:
    counts = [f"{count:,}" for count in (queue.waiting, queue.deferred, queue.running)]
    oldest = format_duration(queue.oldest_wait_s) if queue.waiting else ""
    states = [word for word, _ in _list_marks(queue)]
    state = output.Cell(", ".join(states), "yellow") if states else "open"
    return queue.priority, *counts, oldest, state


def _list_marks(queue: QueueStatus) -> list[tuple[str, Notice]]:
    marks = (("paused", queue.paused), ("closed", queue.closed))
    return [(word, notice) for word, notice in marks if notice is not None]


def _describe_marks(queue: QueueStatus) -> str:
    lines = []
    for word, notice in _list_marks(queue):
        line = f"{word} since {format_time(notice.since_ms)} by {notice.by or '?'}"
        line += f": {notice.why}" if notice.why else ""
        if notice.partitions < queue.partitions:
            # A request was interrupted, or the number of partitions was raised after it.
            within = f"{notice.partitions} of {queue.partitions} partitions"
            line += f" (in {within}: repeat the command)"
        lines.append(line)
    return "\n".join(lines)


def _count_jobs(status: QueueStatus) -> int:
    return status.waiting + status.deferred + status.running
