"""Reads the results of a batch from Redis: copies them to files, or prints them as they arrive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import cast, get_args

from darkq import Batch, Client, CursorGone, LineEnded, LineEvent, RedisUnavailable
from darkq.event import Chunk, Retrying, Started
from darkq.openai.body import CHAT, Endpoint
from darkq_cli.batch.formats.output import OutputFormat, Renderer
from darkq_cli.batch.ledger import render
from darkq_cli.batch.plan import build_errors_path
from darkq_cli.batch.state import EndedLine
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.problems import Problem, wrong_usage
from darkq_cli.terminal.redis import with_client


def copy(batch_id: str, *, answers: Path, errors: Path | None) -> None:
    """Copy the results that are in Redis to new files. Raises `Problem` if these exist."""
    errors = errors if errors is not None else build_errors_path(answers)
    for path in (answers, errors):
        if path.exists() and path.stat().st_size:
            raise wrong_usage(f"{path} already exists")

    async def copy_pages(client: Client) -> tuple[int, int]:
        counts = [0, 0]
        async with client.batch(batch_id) as batch:
            async for page in _read_unacknowledged(batch):
                for failed, path in ((False, answers), (True, errors)):
                    lines = [line.text for line in page if line.failed is failed]
                    counts[failed] += len(lines)
                    _append(path, b"".join(lines))
        return counts[0], counts[1]

    completed, failed = with_client(copy_pages)
    facts = {"answered": f"{completed:,}, into {answers}" if completed else "0"}
    if failed:
        facts["failed"] = f"{failed:,}, into {errors}"
    counts = {"completed": completed, "failed": failed, "output": str(answers)}
    output.write_one(counts, facts)


async def _read_unacknowledged(batch: Batch) -> AsyncIterator[list[EndedLine]]:
    """Yield the lines that have ended and are not acknowledged, without acknowledging them."""
    status = await batch.status()
    left = status.ended - status.acknowledged
    stored = status.metadata.get("endpoint")
    endpoint = cast(Endpoint, stored) if stored in get_args(Endpoint) else CHAT
    renderer = Renderer("jsonl", OutputFormat(), endpoint, ())
    if not left:
        return
    async with aclosing(batch.collected()) as pages:
        async for page in pages:
            yield [render(renderer, end, b"") for end in page if end.outcome != "missing"]
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


def tail(batch_id: str, *, chunks: bool, after: str | None) -> None:
    """Print the lines of a batch when they end, from its beginning or after a cursor."""

    async def read(client: Client) -> None:
        cursor, batch = after, client.batch(batch_id)
        try:
            items = batch.tail(after) if chunks else batch.events(after)
            async with aclosing(items):
                async for item in items:
                    _print(item)
                    cursor = item.cursor
        except (asyncio.CancelledError, RedisUnavailable):
            _say_how_to_resume(batch_id, cursor, chunks=chunks)
            raise
        except CursorGone as error:
            raise Problem(
                f"the events after {cursor} in {batch_id} have expired",
                f"To start at the oldest event: {program.command()} batch tail {batch_id}",
                cause=error,
            ) from None
        except ValueError as error:
            raise wrong_usage(f"--after: {error}") from None

    with_client(read)


def _print(item: LineEvent | LineEnded) -> None:
    if messages.as_json:
        output.write_json(item)
    elif isinstance(item, LineEnded):
        output.write_line(f"line {item.number}  {item.outcome}  {item.job_id}")
    elif words := _describe(item):
        output.write_line(f"line {item.number}  {words}")


def _describe(item: LineEvent) -> str:
    """Return an event on one line; "" for events that the end of the line repeats."""
    match item.event:
        case Started(attempt=attempt, model=model):
            return f"attempt {attempt}, {messages.replace_controls(model)}"
        case Chunk(text=text):
            return f"| {' '.join(messages.replace_controls(text).splitlines())}"
        case Retrying(reason=reason, retry_in_s=retry_in_s):
            return f"{messages.replace_controls(reason)}; next attempt in {retry_in_s:g} s"
    return ""


def _say_how_to_resume(batch_id: str, cursor: str | None, *, chunks: bool) -> None:
    resume = f"{program.command()} batch tail {batch_id}"
    resume += " --chunks" if chunks else ""
    resume += f" --after {cursor}" if cursor else ""
    resume += " --json" if messages.as_json else ""
    messages.say_how_to_resume("To read on", resume=resume)
