"""Waiting jobs moved: to the other queue, or to another Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import SecretStr

from darkq import Backlog, Client, QueueHandle, Settings
from darkq_cli.queues.progress import Progress
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.options import Priority
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.terminal.redis import with_client


def move(
    priority: Priority,
    *,
    to: Priority | None,
    to_url: str | None,
    back: bool,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move jobs, and print how many. Raises `Problem` for wrong usage."""
    if (to is not None) + (to_url is not None) + back != 1:
        raise Problem(
            "move takes one of --to QUEUE, --to-url URL and --back", exit_code=USAGE_EXIT_CODE
        )

    async def work(client: Client) -> None:
        queue = client.queue(priority)
        if back:
            _print_back(await queue.give_back(), as_json=as_json)
        elif dry_run:
            await _show(queue.backlog(), "jobs would be moved", as_json=as_json, dry_run=True)
        elif to_url is not None:
            settings = Settings.load().model_copy(update={"redis_url": SecretStr(to_url)})
            async with Client(settings=settings) as target:
                await _move(queue, target.queue(priority), limit, as_json=as_json)
        elif to is not None:
            await _move(queue, client.queue(to), limit, as_json=as_json)

    with_client(work)


async def _move(
    queue: QueueHandle, target: QueueHandle, limit: int | None, *, as_json: bool
) -> None:
    try:
        await _show(queue.move_to(target, limit=limit), "jobs are moved", as_json=as_json)
    except asyncio.CancelledError:
        messages.leave_line()
        messages.say("No job is lost, and none is run twice. To go on, say the same again.")
        raise
    left = await queue.status()
    if left.moving:
        messages.say(f"{left.moving:,} jobs are on their way; say the same again")


async def _show(
    tallies: AsyncGenerator[Backlog, None], words: str, *, as_json: bool, dry_run: bool = False
) -> None:
    tally = Backlog()
    with Progress(words) as progress:
        async with aclosing(tallies) as pages:
            async for tally in pages:
                progress.show(
                    tally.moved, keys=tally.keys, running=tally.running, lines=tally.lines
                )
    if as_json:
        output.write_json({**_fields(tally), "dry_run": dry_run})
        return
    facts = {words: tally.moved, "idempotency keys": tally.keys}
    facts |= {
        "stay: running": tally.running,
        "stay: lines of batches": tally.lines,
        "stay: expired": tally.expired,
    }
    output.write_facts({name: f"{count:,}" for name, count in facts.items()})


def _fields(tally: Backlog) -> dict[str, int]:
    from msgspec.structs import asdict

    return asdict(tally)


def _print_back(count: int, *, as_json: bool) -> None:
    if as_json:
        output.write_json({"given_back": count})
    else:
        messages.say(
            f"{count:,} jobs are back in their queue. If it is paused: {program.command()} queues"
        )
