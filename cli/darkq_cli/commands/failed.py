"""`darkq failed` and `darkq retry`: failed jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.problems import Problem, wrong_usage
from darkq_cli.terminal.redis import with_client
from darkq_cli.terminal.short_ids import find_job, shorten
from darkq_cli.terminal.units import format_time, format_time_briefly

if TYPE_CHECKING:
    from darkq import Client, DarkqError, FailedJob

CONCURRENT_RETRIES = 16


def failed(limit: opt.LimitOption = 50, _: opt.JsonOption = False) -> None:
    """List failed jobs, the latest first. Below each is its message.

    A terminal shows the beginnings of ids, which other commands accept.

    \b
    darkq failed
    darkq failed --limit 1000 --json | jq -r .code | sort | uniq -c
    """

    async def fetch(client: Client) -> tuple[list[FailedJob], list[str]]:
        # One job more than the limit shows whether there are more.
        async with aclosing(client.failed(limit + 1)) as jobs:
            found = [job async for job in jobs]
        return found, [] if messages.as_json else await client.job_ids()

    found, known = with_client(fetch)
    short = shorten([job.job_id for job in found], known)
    output.write_list(
        found[:limit],
        ("job", "failed", "code", "model", "retry"),
        lambda job: _build_row(job, short),
        lambda job: job.message,
    )
    if not found:
        messages.say("no failed jobs are stored")
    elif len(found) > limit:
        messages.say(f"To list more: {program.command()} failed --limit {limit * 10}")


def _build_row(job: FailedJob, short: Mapping[str, str]) -> Sequence[str]:
    id_ = output.fit(short[job.job_id], job.job_id)
    failed = output.fit(format_time_briefly(job.failed_ms), format_time(job.failed_ms))
    code = output.Cell(job.code, "red")
    return id_, failed, code, job.model or "", "yes" if job.kept else "no"


def retry(
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="From darkq failed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All failed jobs that are stored.")] = False,
    _: opt.JsonOption = False,
) -> None:
    """Queue failed jobs again.

    A job keeps its id, and its count of tries starts at 0. Prints the ids of the queued jobs.

    \b
    darkq retry $id
    darkq retry --all
    """
    named = job_ids or []
    if bool(named) == every:
        raise wrong_usage(
            "retry needs ids of jobs, or --all", f"To list failed jobs: {program.command()} failed"
        )

    async def retry_jobs(client: Client) -> tuple[int, int]:
        ids = _page_all_failed(client) if every else _page_named(named)
        async with aclosing(ids) as pages:
            return await _retry_pages(client, pages)

    retried, refused = with_client(retry_jobs)
    if not messages.as_json:
        messages.say(f"{_count_jobs(retried)} queued again")
    if refused and not every:
        raise Problem(f"{_count_jobs(refused)} cannot be retried")


def _count_jobs(jobs: int) -> str:
    return f"{jobs:,} job{'' if jobs == 1 else 's'}"


async def _page_named(job_ids: Sequence[str]) -> AsyncGenerator[list[str], None]:
    unique = list(dict.fromkeys(job_ids))
    for start in range(0, len(unique), CONCURRENT_RETRIES):
        yield unique[start : start + CONCURRENT_RETRIES]


async def _page_all_failed(client: Client) -> AsyncGenerator[list[str], None]:
    page: list[str] = []
    without_prompt = 0
    async with aclosing(client.failed()) as jobs:
        async for job in jobs:
            without_prompt += not job.kept
            page += [job.job_id] if job.kept else []
            if len(page) == CONCURRENT_RETRIES:
                yield page
                page = []
    yield page
    if without_prompt:
        text = f"left out: {_count_jobs(without_prompt)} whose prompt has expired"
        messages.say(text, left_out=without_prompt)


async def _retry_pages(client: Client, pages: AsyncGenerator[list[str], None]) -> tuple[int, int]:
    """Retry jobs, and print their ids. Return how many are queued, and how many are not."""
    import asyncio

    from darkq import QueueFull

    retried = refused = 0
    async for page in pages:
        refusals = await asyncio.gather(*(_retry_one(client, job_id) for job_id in page))
        for job_id, refusal in zip(page, refusals, strict=True):
            _print_outcome(job_id, refusal)
            retried += refusal is None
            refused += refusal is not None
        for refusal in refusals:
            if isinstance(refusal, QueueFull):  # the next pages would be refused too
                raise refusal
    return retried, refused


async def _retry_one(client: Client, job_id: str) -> DarkqError | None:
    """Return why the job cannot be retried; None when it is queued."""
    from darkq import CannotRetry, JobNotFound, QueueFull

    try:
        await (await find_job(client, job_id)).retry()
    except (CannotRetry, JobNotFound, QueueFull) as error:
        return error
    return None


def _print_outcome(job_id: str, refusal: DarkqError | None) -> None:
    if messages.as_json:
        reason = "" if refusal is None else str(refusal)
        output.write_json({"id": job_id, "retried": refusal is None, "reason": reason})
    elif refusal is not None:
        messages.say(str(refusal), style="red")
    else:
        output.write_line(job_id)
