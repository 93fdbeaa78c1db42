"""The commands about batches that are somewhere else: list, show, cancel, copy what is there.

`darkq batch tail`: which lines end, and how, as it happens; on demand also their words.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import cast, get_args

from darkq import Batch, BatchStatus, Client, CursorGone, LineEnded, LineEvent, RedisUnavailable
from darkq.event import Chunk, Retrying, Started
from darkq.openai.body import CHAT, Endpoint
from darkq_cli.batch.ledger import Ended
from darkq_cli.batch.plan import errors_beside
from darkq_cli.batch.runner import written
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal import output as out
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.terminal.redis import with_client


def list_(*, limit: int, as_json: bool) -> None:
    """Print the batches that Redis knows."""

    async def ask(client: Client) -> list[BatchStatus]:
        found: list[BatchStatus] = []
        async with aclosing(client.batches()) as batches:
            async for batch in batches:
                found.append(batch)
                if len(found) > limit:  # one more than asked for tells whether there are more
                    break
        return found

    found = with_client(ask)
    if as_json:
        for batch in found[:limit]:
            out.write_json(batch)
    elif found:
        _print_table(found[:limit])
    if not found:
        messages.say("Redis knows no batch")
    elif len(found) > limit:
        messages.say(f"There are more: {program.command()} batch list --limit {limit * 10}")


def _print_table(batches: list[BatchStatus]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("batch", no_wrap=True)
    for heading in ("begun", "state", "lines", "completed", "failed", "name"):
        table.add_column(heading, overflow="fold")
    for batch in batches:
        table.add_row(
            batch.batch_id,
            _time(batch.created_ms),
            batch.state,
            _lines(batch),
            f"{batch.completed:,}",
            f"{batch.failed + batch.cancelled:,}",
            messages.harmless(batch.name or ""),
        )
    messages.stdout_console().print(table)


def show(batch_id: str, *, as_json: bool) -> None:
    """Print where a batch stands."""

    async def ask(client: Client) -> BatchStatus:
        return await client.batch(batch_id).status()

    _tell(with_client(ask), as_json=as_json)


def cancel(batch_id: str, *, as_json: bool) -> None:
    """Cancel a batch, and print where it stands then."""

    async def stop(client: Client) -> BatchStatus:
        return await client.batch(batch_id).cancel()

    _tell(with_client(stop), as_json=as_json)


def _tell(status: BatchStatus, *, as_json: bool) -> None:
    if as_json:
        out.write_json(status)
        return
    facts = {"batch": status.batch_id, "state": status.state}
    if status.name:
        facts["name"] = status.name
    facts["begun"] = _time(status.created_ms)
    facts["lines"] = _lines(status)
    facts["running"] = f"{status.outstanding:,}"
    for outcome in ("completed", "failed", "cancelled"):
        facts[outcome] = f"{getattr(status, outcome):,}"
    facts["not taken yet"] = f"{status.ended - status.acknowledged:,}"
    facts["runner"] = status.runner or "none"
    out.write_facts(facts)


def _lines(status: BatchStatus) -> str:
    return f"{status.added:,} so far" if status.total is None else f"{status.total:,}"


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000).astimezone():%Y-%m-%d %H:%M:%S}"


def results(batch_id: str, *, output: Path, errors: Path | None, as_json: bool) -> None:
    """Copy the answers that are in Redis into files of their own."""
    errors = errors if errors is not None else errors_beside(output)
    for path in (output, errors):
        if path.exists() and path.stat().st_size:
            raise Problem(f"{path} is there already", exit_code=USAGE_EXIT_CODE)

    async def copy(client: Client) -> tuple[int, int]:
        counts = [0, 0]
        async with client.batch(batch_id) as batch:
            async for page in _there(batch):
                for failed, path in ((False, output), (True, errors)):
                    lines = [ended.line for ended in page if ended.failed is failed]
                    counts[failed] += len(lines)
                    _append(path, b"".join(lines))
        return counts[0], counts[1]

    completed, failed = with_client(copy)
    _say_copied(completed, failed, output, errors, as_json=as_json)


async def _there(batch: Batch) -> AsyncIterator[list[Ended]]:
    """Yield what has ended and was not taken over, and take nothing over."""
    status = await batch.status()
    left = status.ended - status.acknowledged
    named = status.metadata.get("endpoint")
    endpoint = cast(Endpoint, named) if named in get_args(Endpoint) else CHAT
    if not left:
        return
    async with aclosing(batch.collected()) as pages:
        async for page in pages:
            yield written([f for f in page if f.outcome != "missing"], endpoint)
            left -= len(page)
            if left <= 0:
                return


def _append(path: Path, data: bytes) -> None:
    if not data:
        return
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror}") from None


def _say_copied(completed: int, failed: int, answers: Path, errors: Path, *, as_json: bool) -> None:
    if as_json:
        out.write_json({"completed": completed, "failed": failed, "output": str(answers)})
        return
    facts = {"answered": f"{completed:,}, into {answers}" if completed else "0"}
    if failed:
        facts["failed"] = f"{failed:,}, into {errors}"
    out.write_facts(facts)


def tail(batch_id: str, *, chunks: bool, after: str | None, as_json: bool) -> None:
    """Print the ends of a batch's lines, from its beginning or after a cursor."""

    async def read(client: Client) -> None:
        cursor, batch = after, client.batch(batch_id)
        try:
            items = batch.tail(after) if chunks else batch.events(after)
            async with aclosing(items):
                async for item in items:
                    _write(item, as_json=as_json)
                    cursor = item.cursor
        except (asyncio.CancelledError, RedisUnavailable):
            _say_how_to_go_on(batch_id, cursor, chunks=chunks, as_json=as_json)
            raise
        except CursorGone as error:
            raise Problem(
                f"what came after {cursor} in {batch_id} is not kept any more",
                f"From the first that is: {program.command()} batch tail {batch_id}",
                cause=error,
            ) from None
        except ValueError as error:
            raise Problem(f"--after: {error}", exit_code=USAGE_EXIT_CODE) from None

    with_client(read)


def _write(item: LineEvent | LineEnded, *, as_json: bool) -> None:
    if as_json:
        output.write_json(item)
    elif isinstance(item, LineEnded):
        output.write_line(f"line {item.number}  {item.outcome}  {item.job_id}")
    elif words := _words(item):
        output.write_line(f"line {item.number}  {words}")


def _words(item: LineEvent) -> str:
    """Return an event on one line; "" for those that the line's end tells, too."""
    match item.event:
        case Started(attempt=attempt, model=model):
            return f"attempt {attempt}, {messages.harmless(model)}"
        case Chunk(text=text):
            return f"| {' '.join(messages.harmless(text).splitlines())}"
        case Retrying(reason=reason, retry_in_s=retry_in_s):
            return f"{messages.harmless(reason)}; another attempt in {retry_in_s:g} s"
    return ""


def _say_how_to_go_on(batch_id: str, cursor: str | None, *, chunks: bool, as_json: bool) -> None:
    resume = f"{program.command()} batch tail {batch_id}"
    resume += " --chunks" if chunks else ""
    resume += f" --after {cursor}" if cursor else ""
    resume += " --json" if as_json else ""
    messages.leave_line()
    messages.say(f"To read on:\n  {resume}", resume=resume)
