"""The commands about one job: put it in, read it, ask after it, stop it."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from datetime import datetime

from darkq import (
    Client,
    JobCancelled,
    JobFailed,
    JobHandle,
    Result,
    ResultTimeout,
    Status,
)
from darkq.jobs.status import FINISHED
from darkq.protocol.job import MAX_PROMPT_BYTES, Priority
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.terminal.reading import Reader, follow
from darkq_cli.terminal.redis import with_client

CANCEL_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What `run` and `enqueue` are asked for. `prompt` may be `-`: standard input."""

    prompt: str
    model: str | None = None
    upstream: str | None = None
    priority: Priority = "interactive"
    tries: int | None = None
    timeout_s: float | None = None
    idempotency_key: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    async def place(self, client: Client) -> JobHandle:
        """Store the job. Raises `InvalidJob`, `IdempotencyConflict`, `RedisUnavailable`."""
        return await client.enqueue(
            self.prompt,
            model=self.model,
            upstream=self.upstream,
            priority=self.priority,
            tries=self.tries,
            timeout_s=self.timeout_s,
            idempotency_key=self.idempotency_key,
            metadata=self.metadata,
        )


def prompt_of(argument: str) -> str:
    """Return the prompt that an argument stands for; `-` is all of standard input."""
    if argument != "-":
        return argument
    if sys.stdin.isatty():
        messages.say("The prompt, please; Ctrl-D on an empty line ends it.", style="dim")
    try:
        # One byte more than allowed is enough to be refused.
        return sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem("standard input is not UTF-8", exit_code=USAGE_EXIT_CODE) from None


def enqueue(order: Order, *, as_json: bool) -> None:
    """Store a job and print its id."""

    async def place(client: Client) -> JobHandle:
        return await order.place(client)

    job = with_client(place)
    if as_json:
        output.write_json({"id": job.id, "duplicate": job.duplicate})
    else:
        output.write_line(job.id)


def run(order: Order, *, as_json: bool) -> None:
    """Store a job and print its answer as it comes."""

    async def place_and_read(client: Client) -> None:
        job = await order.place(client)
        messages.say(f"job {job.id}", style="dim", id=job.id)
        await follow(client, Reader(job, as_json=as_json))

    with_client(place_and_read)


def tail(job_id: str, *, after: str | None, as_json: bool) -> None:
    """Print a job's answer as it comes, from its beginning or after a cursor."""

    async def read(client: Client) -> None:
        await follow(client, Reader(client.job(job_id), after=after, as_json=as_json))

    with_client(read)


def result(job_id: str, *, wait: bool, timeout_s: float | None, as_json: bool) -> None:
    """Print a finished job's answer, or wait for it."""

    async def fetch(client: Client) -> Result:
        job = client.job(job_id)
        if not wait and timeout_s is None:
            status = await job.status()
            if status.state not in FINISHED:
                darkq = program.command()
                raise Problem(
                    f"job {job.id} is {status.state}, and has no result yet",
                    f"Wait for it: {darkq} result {job.id} --wait\n"
                    f"Read it as it comes: {darkq} tail {job.id}",
                )
        return await job.result(timeout_s)

    found = with_client(fetch)
    if as_json:
        output.write_json(found)
    else:
        answer = output.Answer()
        answer.write(found.text)
        answer.end_line()


def status(job_id: str, *, as_json: bool) -> None:
    """Print where a job stands."""

    async def ask(client: Client) -> Status:
        return await client.job(job_id).status()

    found = with_client(ask)
    if as_json:
        output.write_json(found)
    else:
        output.write_facts(_facts(found))


def _facts(status: Status) -> dict[str, str]:
    facts = {"job": status.job_id, "state": status.state}
    if status.attempt:
        facts["attempt"] = str(status.attempt)
    if status.tries:
        facts["failed tries"] = str(status.tries)
    if status.due_in_ms:
        facts["next try"] = f"in {status.due_in_ms / 1000:.1f} s"
    if status.model:
        facts["model"] = status.model
    if status.upstream:
        facts["upstream"] = status.upstream
    if status.queued_ms:
        at = datetime.fromtimestamp(status.queued_ms / 1000).astimezone()
        ago_s = max(0.0, time.time() - status.queued_ms / 1000)
        facts["queued"] = f"{at:%Y-%m-%d %H:%M:%S} ({ago_s:.0f} s ago)"
    for key, value in status.metadata.items():
        facts[f"metadata {key}"] = value
    return facts


def cancel(job_id: str, *, as_json: bool) -> None:
    """Cancel a job, wait until it is over, and print how it ended."""

    async def stop(client: Client) -> Status:
        job = client.job(job_id)
        status = await job.cancel()
        if status.state not in FINISHED:
            await _wait_for_end(job)
            status = await job.status()
        return status

    ended = with_client(stop)
    if as_json:
        output.write_json(ended)
    else:
        output.write_line(ended.state)


async def _wait_for_end(job: JobHandle) -> None:
    try:
        await job.result(CANCEL_TIMEOUT_S)
    except (JobCancelled, JobFailed):
        pass
    except ResultTimeout:
        raise Problem(
            f"job {job.id} is to stop, but its worker has not done it "
            f"within {CANCEL_TIMEOUT_S:g} s",
            f"Look again: {program.command()} status {job.id}",
        ) from None
