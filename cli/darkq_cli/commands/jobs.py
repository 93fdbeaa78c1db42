"""`darkq run`, `enqueue`, `tail`, `result`, `status` and `cancel`: one job."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.terminal import interrupts, messages, output, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.job_options import JobOptions, takes_job_options
from darkq_cli.terminal.problems import Problem
from darkq_cli.terminal.redis import with_client
from darkq_cli.terminal.short_ids import find_job
from darkq_cli.terminal.units import format_duration, format_time

if TYPE_CHECKING:
    from darkq import Client, Result, Status

CANCEL_TIMEOUT_S = 30.0


@takes_job_options
def run(
    options: JobOptions, reasoning: opt.ReasoningOption = None, _: opt.JsonOption = False
) -> None:
    """Send a prompt, and print the answer as it arrives.

    Ctrl-C leaves the job running, and prints the command that reads on.

    \b
    darkq run "Write a haiku about queues."
    git diff | darkq run - --model gpt-4o
    darkq run --json "Hello" | jq
    darkq run "Write a haiku." --temperature 0 --max-tokens 50
    darkq run "Name a city." --schema city.json
    darkq run "What is this?" --image photo.jpg
    """
    from darkq_cli.terminal.reading import Reader, follow

    enqueue = options.prepare()

    async def enqueue_and_read(client: Client) -> None:
        job = await enqueue(client)
        messages.say(f"job {job.id}", style="dim", id=job.id)
        await follow(client, Reader(job, shows_reasoning=reasoning))
        if options.ignore_unsupported and (result := await job.result()).ignored:
            names = ", ".join(result.ignored)
            text = f"ignored, as {result.upstream} does not support it: {names}"
            messages.say(text, ignored=names)

    with_client(enqueue_and_read)


@takes_job_options
def enqueue(options: JobOptions, _: opt.JsonOption = False) -> None:
    """Store a job and print its id. A worker runs it, now or later.

    \b
    id=$(darkq enqueue "Write a haiku about queues.")
    darkq enqueue - --priority bulk < prompt.txt
    """
    job = with_client(options.prepare())
    output.write_one({"id": job.id, "duplicate": job.duplicate}, job.id)


def tail(
    job_id: opt.JobArgument,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Start after this event, such as 1-42.")
    ] = None,
    reasoning: opt.ReasoningOption = None,
    _: opt.JsonOption = False,
) -> None:
    """Print a job's answer as it arrives, from its first word.

    The output is the same whether it starts before, while or after the job runs. With --json it
    prints the job's events. Ctrl-C prints the command that reads on.

    \b
    darkq tail $id
    darkq tail $id --after 1-42
    darkq tail $id --json
    """
    from darkq_cli.terminal.reading import Reader, follow

    async def read(client: Client) -> None:
        job = await find_job(client, job_id)
        reader = Reader(job, after=after, shows_reasoning=reasoning)
        await follow(client, reader)

    with_client(read)


def result(
    job_id: opt.JobArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout-s", metavar="S", min=0, help="Wait at most this many seconds."),
    ] = None,
    _: opt.JsonOption = False,
) -> None:
    """Print the answer of a completed job.

    \b
    darkq result $id
    darkq result $id --wait
    darkq result $id --timeout-s 60 --json
    """
    from darkq.jobs.status import FINISHED
    from darkq_cli.terminal.reading import say_why

    async def fetch(client: Client) -> Result:
        job = await find_job(client, job_id)
        if not wait and timeout_s is None:
            (status,) = await client.explain([await job.status()])
            if status.state not in FINISHED:
                darkq = program.command()
                why = f": {status.why.message}" if status.why else ""
                raise Problem(
                    f"job {job.id} is {status.state} and has no result yet{why}",
                    f"To wait for it: {darkq} result {job.id} --wait\n"
                    f"To print the text as it arrives: {darkq} tail {job.id}",
                )
        async with interrupts.run_beside(say_why(client, job)):
            return await job.result(timeout_s)

    found = with_client(fetch)
    if messages.as_json:
        output.write_json(found)
    else:
        text = output.TextOutput()
        text.write(found.text or found.refusal)
        for call in found.tool_calls:
            text.write_call(call.name, call.arguments)
        text.end_line()


def status(job_id: opt.JobArgument, _: opt.JsonOption = False) -> None:
    """Print the state of a job, and why it waits or has failed.

    \b
    darkq status $id
    darkq status $id --json
    """

    async def fetch(client: Client) -> Status:
        (explained,) = await client.explain([await (await find_job(client, job_id)).status()])
        return explained

    found = with_client(fetch)
    output.write_one(found, _list_facts(found))


def _list_facts(status: Status) -> dict[str, str]:
    ago_s = max(0.0, time.time() - status.queued_ms / 1000)
    queued = f"{format_time(status.queued_ms)} ({format_duration(ago_s)} ago)"
    known = {
        "job": status.job_id,
        "state": status.state,
        "why": status.why and status.why.message,
        "attempt": status.attempt and str(status.attempt),
        "failed tries": status.tries and str(status.tries),
        "next try": status.due_in_ms and f"in {status.due_in_ms / 1000:.1f} s",
        "model": status.model,
        "upstream": status.upstream,
        "queued": status.queued_ms and queued,
    }
    facts = {name: str(value) for name, value in known.items() if value}
    for key, value in status.metadata.items():
        facts[f"metadata {key}"] = value
    return facts


def cancel(job_id: opt.JobArgument, _: opt.JsonOption = False) -> None:
    """Cancel a job, and print its final state.

    Waits until the job has ended. A job that had already ended stays `completed` or `failed`.

    \b
    darkq cancel $id
    """
    from darkq import JobCancelled, JobFailed, ResultTimeout
    from darkq.jobs.status import FINISHED

    async def cancel_and_wait(client: Client) -> Status:
        job = await find_job(client, job_id)
        status = await job.cancel()
        if status.state in FINISHED:
            return status
        try:
            with suppress(JobCancelled, JobFailed):
                await job.result(CANCEL_TIMEOUT_S)
        except ResultTimeout:
            raise Problem(
                f"job {job.id} was asked to stop, but its worker has not stopped it "
                f"within {CANCEL_TIMEOUT_S:g} s",
                f"To check again: {program.command()} status {job.id}",
            ) from None
        return await job.status()

    ended = with_client(cancel_and_wait)
    output.write_one(ended, ended.state)
