"""`darkq batch tail`: which lines end, and how, as it happens; on demand also their words."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from darkq import Client, CursorGone, LineEnded, LineEvent, RedisUnavailable
from darkq.event import Chunk, Retrying, Started
from darkq_cli import here, output, talk
from darkq_cli.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.reach import with_client


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
                f"From the first that is: {here.command()} batch tail {batch_id}",
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
            return f"attempt {attempt}, {talk.harmless(model)}"
        case Chunk(text=text):
            return f"| {' '.join(talk.harmless(text).splitlines())}"
        case Retrying(reason=reason, retry_in_s=retry_in_s):
            return f"{talk.harmless(reason)}; another attempt in {retry_in_s:g} s"
    return ""


def _say_how_to_go_on(batch_id: str, cursor: str | None, *, chunks: bool, as_json: bool) -> None:
    resume = f"{here.command()} batch tail {batch_id}"
    resume += " --chunks" if chunks else ""
    resume += f" --after {cursor}" if cursor else ""
    resume += " --json" if as_json else ""
    talk.leave_line()
    talk.say(f"To read on:\n  {resume}", resume=resume)
