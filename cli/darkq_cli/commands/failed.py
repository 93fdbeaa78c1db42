"""The commands about jobs that have failed: list them, and run them again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import NamedTuple

from darkq import CannotRetry, Client, DarkqError, FailedJob, JobNotFound, QueueFull
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.terminal.redis import with_client

JOBS_AT_ONCE = 16


def failed(*, limit: int, as_json: bool) -> None:
    """Print the jobs that have failed."""

    async def ask(client: Client) -> list[FailedJob]:
        # One more than asked for tells whether there are more.
        async with aclosing(client.failed(limit + 1)) as jobs:
            return [job async for job in jobs]

    found = with_client(ask)
    if as_json:
        for job in found[:limit]:
            output.write_json(job)
    elif found:
        _print_table(found[:limit])
    if not found:
        messages.say("no job has failed, as far as they are kept")
    elif len(found) > limit:
        messages.say(f"There are more: {program.command()} failed --limit {limit * 10}")


def _print_table(jobs: Sequence[FailedJob]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("job", no_wrap=True)
    for heading in ("failed", "code", "model", "can be retried", "message"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        at = datetime.fromtimestamp(job.failed_ms / 1000).astimezone()
        table.add_row(
            job.job_id,
            f"{at:%Y-%m-%d %H:%M:%S}",
            messages.harmless(job.code),
            messages.harmless(job.model or ""),
            "yes" if job.kept else "no",
            " ".join(messages.harmless(job.message).split()),
        )
    messages.stdout_console().print(table)


class _Tally(NamedTuple):
    """How many jobs wait again, and how many do not."""

    retried: int
    refused: int


def retry(job_ids: Sequence[str], *, every: bool, as_json: bool) -> None:
    """Run jobs again, those named or all that can be.

    Raises `Problem` when one that was named cannot be, `QueueFull` at the first that finds no
    room.
    """
    if bool(job_ids) == every:
        raise Problem(
            "retry takes the ids of jobs, or --all",
            f"Which have failed: {program.command()} failed",
            exit_code=USAGE_EXIT_CODE,
        )

    async def again(client: Client) -> _Tally:
        chosen = _all_failed(client) if every else _named(job_ids)
        async with aclosing(chosen) as pages:
            return await _retry_all(client, pages, as_json=as_json)

    tally = with_client(again)
    if not as_json:
        messages.say(f"{_count(tally.retried)} wait{'s' if tally.retried == 1 else ''} again")
    if tally.refused and not every:
        raise Problem(f"{_count(tally.refused)} cannot be run again")


def _count(jobs: int) -> str:
    return f"{jobs:,} job{'' if jobs == 1 else 's'}"


async def _named(job_ids: Sequence[str]) -> AsyncGenerator[list[str], None]:
    unique = list(dict.fromkeys(job_ids))
    for start in range(0, len(unique), JOBS_AT_ONCE):
        yield unique[start : start + JOBS_AT_ONCE]


async def _all_failed(client: Client) -> AsyncGenerator[list[str], None]:
    page: list[str] = []
    unkept = 0
    async with aclosing(client.failed()) as jobs:
        async for job in jobs:
            unkept += not job.kept
            page += [job.job_id] if job.kept else []
            if len(page) == JOBS_AT_ONCE:
                yield page
                page = []
    yield page
    if unkept:
        messages.say(f"left out: {_count(unkept)} without a prompt any more", left_out=unkept)


async def _retry_all(
    client: Client, pages: AsyncGenerator[list[str], None], *, as_json: bool
) -> _Tally:
    retried = refused = 0
    async for page in pages:
        answers = await asyncio.gather(*(_retry_one(client, job_id) for job_id in page))
        for job_id, refusal in zip(page, answers, strict=True):
            _report(job_id, refusal, as_json=as_json)
            retried += refusal is None
            refused += refusal is not None
        for refusal in answers:
            if isinstance(refusal, QueueFull):  # there is no room for the rest either
                raise refusal
    return _Tally(retried, refused)


async def _retry_one(client: Client, job_id: str) -> DarkqError | None:
    """Return why the job is not run again, None when it is."""
    try:
        await client.job(job_id).retry()
    except (CannotRetry, JobNotFound, QueueFull) as error:
        return error
    return None


def _report(job_id: str, refusal: DarkqError | None, *, as_json: bool) -> None:
    if as_json:
        reason = "" if refusal is None else str(refusal)
        output.write_json({"id": job_id, "retried": refusal is None, "reason": reason})
    elif refusal is not None:
        messages.say(str(refusal), style="red")
    else:
        output.write_line(job_id)
