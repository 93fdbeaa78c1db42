"""Purging from the command line: counted, asked for, done, and counted again."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import typer

from darkq import Client, Purged
from darkq_cli.queues.progress import Progress
from darkq_cli.terminal import output
from darkq_cli.terminal.options import Priority
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.terminal.redis import with_client

_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"([0-9]{1,7})(s|min|h|d)")

What = Callable[[Client, bool], AsyncGenerator[Purged, None]]
"""Purges with a client; the second argument is whether it only counts."""


def queue(priority: Priority, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Cancel what waits in a queue."""
    words = f"jobs that wait in {priority} are cancelled"
    _purge(
        lambda client, dry: client.queue(priority).purge(dry_run=dry),
        words, dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip


def failed(older_than: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Forget what has failed."""
    age_s = _seconds(older_than) if older_than is not None else 0
    _purge(
        lambda client, dry: client.purge.failed(older_than_s=age_s, dry_run=dry),
        "failed jobs are forgotten", dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip


def results(older_than: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Forget results."""
    age_s = _seconds(older_than)
    _purge(
        lambda client, dry: client.purge.results(older_than_s=age_s, dry_run=dry),
        "results are forgotten", dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip


def tenant(name: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Cancel and forget all that a tenant has. Raises `Problem` while something runs."""
    tally = _purge(
        lambda client, dry: client.purge.tenant(name, dry_run=dry),
        "jobs are cancelled, or forgotten", dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip
    if tally.left and not dry_run:
        raise Problem(f"{tally.left:,} jobs run, or cannot be read; say it again later")


def _purge(what: What, words: str, *, dry_run: bool, yes: bool, as_json: bool) -> Purged:
    """Purge, after asking. Raises `Problem` where nobody can be asked."""

    async def work(client: Client) -> Purged:
        if dry_run or not yes:
            tally = await _show(what(client, True), f"(dry run) {words}")
            if dry_run or not tally.purged:
                return tally
            await _ask(tally, words)
        return await _show(what(client, False), words)

    if not (dry_run or yes) and not sys.stdin.isatty():
        raise Problem("nobody is there to confirm it: say --yes", exit_code=USAGE_EXIT_CODE)
    tally = with_client(work)
    if as_json:
        output.write_json({**_fields(tally), "dry_run": dry_run})
    else:
        facts = {f"(dry run) {words}" if dry_run else words: tally.purged}
        facts |= {"left: they run, or cannot be read": tally.left, "looked at": tally.looked_at}
        output.write_facts({name: f"{count:,}" for name, count in facts.items()})
    return tally


async def _show(tallies: AsyncGenerator[Purged, None], words: str) -> Purged:
    tally = Purged()
    with Progress(words) as progress:
        async with aclosing(tallies) as pages:
            async for tally in pages:
                progress.show(tally.purged, left=tally.left)
    return tally


async def _ask(tally: Purged, words: str) -> None:
    """Ask whether it is meant. Raises `typer.Abort` when it is not."""
    question = f"{tally.purged:,} {words}. Is that meant?"
    if not await asyncio.to_thread(typer.confirm, question, err=True):
        raise typer.Abort


def _fields(tally: Purged) -> dict[str, int]:
    from msgspec.structs import asdict

    return asdict(tally)


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise Problem(
            f"--older-than: {text!r} is no length of time, like 12h, 30d",
            exit_code=USAGE_EXIT_CODE,
        )
    return float(int(match[1]) * _UNITS_S[match[2]])
