"""The commands about jobs: their options and help. What they do is in `jobs`."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import options as opt


def run(
    prompt: opt.PromptArgument,
    model: opt.ModelOption = None,
    upstream: opt.UpstreamOption = None,
    priority: opt.PriorityOption = "interactive",
    tries: opt.TriesOption = None,
    timeout_s: opt.TimeoutOption = None,
    idempotency_key: opt.IdempotencyKeyOption = None,
    metadata: opt.MetadataOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Ask, and print the answer as it comes.

    Ctrl-C leaves the job running, and prints the command that reads on.

    \b
    darkq run "Write a haiku about queues."
    git diff | darkq run - --model gpt-4o
    darkq run --json "Hello" | jq
    """
    from darkq_cli.commands import jobs

    order = jobs.Order(
        prompt=jobs.prompt_of(prompt),
        model=model,
        upstream=upstream,
        priority=priority,
        tries=tries,
        timeout_s=timeout_s,
        idempotency_key=idempotency_key,
        metadata=opt.pairs(metadata),
    )
    jobs.run(order, as_json=as_json)


def enqueue(
    prompt: opt.PromptArgument,
    model: opt.ModelOption = None,
    upstream: opt.UpstreamOption = None,
    priority: opt.PriorityOption = "interactive",
    tries: opt.TriesOption = None,
    timeout_s: opt.TimeoutOption = None,
    idempotency_key: opt.IdempotencyKeyOption = None,
    metadata: opt.MetadataOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Store a job and print its id. A worker runs it, now or when one is there.

    \b
    id=$(darkq enqueue "Write a haiku about queues.")
    darkq enqueue - --priority bulk < prompt.txt
    """
    from darkq_cli.commands import jobs

    order = jobs.Order(
        prompt=jobs.prompt_of(prompt),
        model=model,
        upstream=upstream,
        priority=priority,
        tries=tries,
        timeout_s=timeout_s,
        idempotency_key=idempotency_key,
        metadata=opt.pairs(metadata),
    )
    jobs.enqueue(order, as_json=as_json)


def tail(
    job_id: opt.JobArgument,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on after this event, as in 1-42.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Print a job's answer as it comes, from its first word.

    Start it before, while or after the job runs: it prints the same. With --json it prints
    the job's events. Ctrl-C prints the command that reads on.

    \b
    darkq tail $id
    darkq tail $id --after 1-42
    darkq tail $id --json
    """
    from darkq_cli.commands import jobs

    jobs.tail(job_id, after=after, as_json=as_json)


def result(
    job_id: opt.JobArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job is finished.")] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout-s", metavar="S", min=0, help="Wait for so many seconds at most."),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Print a finished job's answer.

    \b
    darkq result $id
    darkq result $id --wait
    darkq result $id --timeout-s 60 --json
    """
    from darkq_cli.commands import jobs

    jobs.result(job_id, wait=wait, timeout_s=timeout_s, as_json=as_json)


def status(job_id: opt.JobArgument, as_json: opt.JsonOption = False) -> None:
    """Print where a job stands.

    \b
    darkq status $id
    darkq status $id --json
    """
    from darkq_cli.commands import jobs

    jobs.status(job_id, as_json=as_json)


def cancel(job_id: opt.JobArgument, as_json: opt.JsonOption = False) -> None:
    """Cancel a job, and print how it ended.

    Waits until the job is over. One that had finished before stays what it was, `completed` or
    `failed`.

    \b
    darkq cancel $id
    """
    from darkq_cli.commands import jobs

    jobs.cancel(job_id, as_json=as_json)
