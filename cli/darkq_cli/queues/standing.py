"""How the queues stand, and the words that operators say of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime
from typing import Literal

from darkq import Client, QueueStatus
from darkq.operate.queue_state import Notice
from darkq_cli.queues.progress import Progress
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.options import Priority
from darkq_cli.terminal.problems import Problem
from darkq_cli.terminal.redis import with_client


def list_(*, as_json: bool) -> None:
    """Print how all queues stand."""

    async def ask(client: Client) -> list[QueueStatus]:
        return await client.queues()

    _print(with_client(ask), as_json=as_json)


def pause(priority: Priority, *, why: str, by: str | None, as_json: bool) -> None:
    """Pause a queue, and print how it stands then."""

    async def tell(client: Client) -> QueueStatus:
        return await client.queue(priority).pause(why=why, by=by)

    _print([with_client(tell)], as_json=as_json)


def take_back(word: Literal["resume", "open"], priority: Priority, *, as_json: bool) -> None:
    """Take a word back, and print how the queue stands then."""

    async def tell(client: Client) -> QueueStatus:
        queue = client.queue(priority)
        return await (queue.resume() if word == "resume" else queue.open())

    _print([with_client(tell)], as_json=as_json)


def drain(
    priority: Priority,
    *,
    wait: bool,
    timeout_s: float | None,
    why: str,
    by: str | None,
    as_json: bool,
) -> None:
    """Close a queue, and wait until it is empty if that is wanted.

    Raises `Problem` when it is not, after `timeout_s`.
    """

    async def close(client: Client) -> QueueStatus:
        status = await client.queue(priority).close(why=why, by=by)
        return await _until_empty(client, priority, timeout_s) if wait else status

    status = with_client(close)
    _print([status], as_json=as_json)
    if not as_json:
        messages.say(
            f"New jobs are refused. To take them again: {program.command()} queues open {priority}"
        )
    left = _left(status)
    if wait and left:
        raise Problem(f"{left:,} jobs are left after {timeout_s:g} s; the queue is still closed")


async def _until_empty(client: Client, priority: Priority, timeout_s: float | None) -> QueueStatus:
    first = status = await client.queue(priority).status()
    if status.paused:
        messages.say(
            f"it is paused, and will not empty; {program.command()} queues resume {priority}"
        )
    try:
        async with asyncio.timeout(timeout_s), aclosing(client.queue(priority).draining()) as all_:
            with Progress("jobs have ended", total=_left(first)) as progress:
                async for status in all_:
                    progress.show(
                        max(0, _left(first) - _left(status)),
                        waiting=status.waiting,
                        deferred=status.deferred,
                        running=status.running,
                    )
    except TimeoutError:
        pass
    return status


def _left(status: QueueStatus) -> int:
    return status.waiting + status.deferred + status.running


def _print(queues: list[QueueStatus], *, as_json: bool) -> None:
    if as_json:
        for queue in queues:
            output.write_json(queue)
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("queue", "waiting", "deferred", "running", "oldest waits", "stands"):
        table.add_column(heading, overflow="fold")
    for queue in queues:
        table.add_row(
            queue.priority,
            *(f"{count:,}" for count in (queue.waiting, queue.deferred, queue.running)),
            f"{queue.oldest_wait_s:,.0f} s" if queue.waiting else "",
            messages.harmless("; ".join(_words(queue)) or "open"),
        )
    messages.stdout_console().print(table)


def _words(queue: QueueStatus) -> list[str]:
    notices = (("paused", queue.paused), ("closed", queue.closed))
    return [_told(word, notice, queue) for word, notice in notices if notice is not None]


def _told(word: str, notice: Notice, queue: QueueStatus) -> str:
    """A word with its note; where it stands in some partitions only, that it does."""
    since = datetime.fromtimestamp(notice.since_ms / 1000).astimezone()
    text = f"{word} since {since:%Y-%m-%d %H:%M} by {notice.by or '?'}"
    text += f": {notice.why}" if notice.why else ""
    if notice.partitions < queue.partitions:
        text += f" (in {notice.partitions} of {queue.partitions} partitions: say it again)"
    return text
