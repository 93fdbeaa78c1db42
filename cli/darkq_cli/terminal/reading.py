"""Reading a job's answer as it comes, and leaving in a way that one can come back from.

The reader starts with the latest attempt, since the text of earlier ones is void. When a new
attempt begins after text was printed, a terminal shows a line between the two. In a file or a
pipe nothing can be taken back, so there the reading ends with an error.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress

from darkq import Client, DarkqError, JobCancelled, JobFailed, JobHandle, RedisUnavailable
from darkq.event import (
    AnyEvent,
    Cancelled,
    Chunk,
    Cursor,
    Failed,
    Queued,
    Retrying,
    Started,
    encode,
)
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem

PATIENCE_S = 3.0
"""How long a job may wait before somebody should look for a worker."""


class Reader:
    """Prints one job's events. `cursor` is the place of the last one printed."""

    def __init__(self, job: JobHandle, *, after: str | None = None, as_json: bool = False) -> None:
        """Raises `Problem` for an `after` that is no cursor."""
        self.cursor = after
        self.has_begun = False
        self.chunks = 0
        self.first_chunk_s = self.last_chunk_s = 0.0
        self._job = job
        self._answer = output.Answer()
        self._as_json = as_json
        self._text_given = after is not None and _parse(after).seq > 0

    def say_how_to_resume(self) -> None:
        """Say what to type to go on from here, after an interruption."""
        resume = f"{program.command()} tail {self._job.id}"
        resume += f" --after {self.cursor}" if self.cursor else ""
        resume += " --json" if self._as_json else ""
        cancel = f"{program.command()} cancel {self._job.id}"
        messages.leave_line()
        messages.say(
            f"The job is still there. To read on:\n  {resume}\nTo stop it:\n  {cancel}",
            resume=resume,
            cancel=cancel,
        )

    async def read(self) -> None:
        """Print to the end of the job.

        Raises `JobFailed`, `JobCancelled`, `Problem` when printed text became void, and what
        `JobHandle.events` raises. Cancelled, it can be resumed from `cursor`.
        """
        after = self.cursor
        if after is None and not self._as_json:
            after = await self._job.latest_attempt()
        try:
            async with aclosing(self._job.events(after)) as events:
                async for event in events:
                    self._take(event)
        finally:
            self._answer.end_line()

    def _take(self, event: AnyEvent) -> None:
        self.has_begun = self.has_begun or not isinstance(event, Queued)
        if self._as_json:
            output.write_line(encode(event).decode())
        elif isinstance(event, Started):
            self._begin(event)
        elif isinstance(event, Chunk):
            self._answer.write(event.text)
            self._text_given = True
            self._keep_time(event)
        elif isinstance(event, Retrying):
            self._answer.end_line()
            messages.say(_why_it_waits(event), style="yellow")
        self.cursor = event.id
        if isinstance(event, Failed):
            raise JobFailed(self._job.id, event.code, event.message)
        if isinstance(event, Cancelled):
            raise JobCancelled(self._job.id)

    def _begin(self, event: Started) -> None:
        if not self._text_given:
            return
        if not self._answer.is_terminal:
            raise Problem(
                f"attempt {event.attempt} starts over, so the text printed so far is void",
                f"The whole text, when it is complete: {program.command()} result {self._job.id} "
                "--wait",
            )
        self._answer.end_line()
        messages.say(f"— attempt {event.attempt} starts over —", style="yellow")
        self._text_given = False
        self.chunks = 0

    def _keep_time(self, event: Chunk) -> None:
        self.last_chunk_s = time.monotonic()
        if not self.chunks:
            self.first_chunk_s = self.last_chunk_s
        self.chunks += event.merged


def _why_it_waits(event: Retrying) -> str:
    """Say how an attempt ended and when the next begins; the event may have been a while ago."""
    reason = f"{event.reason}: {event.message.rstrip('.')}" if event.message else event.reason
    left_s = event.at_ms / 1000 + event.retry_in_s - time.time()
    left_s = min(max(left_s, 0), event.retry_in_s)  # the worker's clock may differ
    return f"attempt {event.attempt} ended: {reason}; another begins in {left_s:.1f} s"


def _parse(after: str) -> Cursor:
    try:
        return Cursor.parse(after)
    except ValueError as error:
        raise Problem(f"--after: {error}", exit_code=USAGE_EXIT_CODE) from None


async def follow(client: Client, reader: Reader) -> None:
    """Read to the end; on the way out before it, say how to come back.

    Raises what `Reader.read` raises.
    """
    lookout = asyncio.create_task(_look_for_workers(client, reader))
    try:
        await reader.read()
    except (asyncio.CancelledError, RedisUnavailable):
        reader.say_how_to_resume()
        raise
    finally:
        lookout.cancel()
        await asyncio.wait([lookout])


async def _look_for_workers(client: Client, reader: Reader) -> None:
    await asyncio.sleep(PATIENCE_S)
    if reader.has_begun:
        return
    with suppress(DarkqError):  # the reader will tell
        if not await client.workers():
            messages.say(
                f"no worker is running, so the job waits. To start one: {program.command()} up"
            )
