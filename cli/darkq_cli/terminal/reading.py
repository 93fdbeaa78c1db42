"""Prints the events of a job as they arrive. After an interruption, prints how to resume.

Reading starts with the latest attempt, because the text of earlier attempts is void. When another
attempt starts after text was printed, a terminal shows a separator. Output to a file or a pipe
cannot be taken back, so there the command fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from contextlib import aclosing, suppress

from darkq import Client, DarkqError, JobCancelled, JobFailed, JobHandle, RedisUnavailable
from darkq import event as ev
from darkq.jobs.status import Reason, Why
from darkq.operate.waiting import describe_attempt
from darkq_cli.terminal import interrupts, messages, output, program
from darkq_cli.terminal.problems import Problem, wrong_usage

_CUT = {
    "length": "the answer reached its token limit, so it is not complete",
    "content_filter": "the upstream's content filter removed the rest of the answer",
}
WAIT_CHECK_S = 3.0
"""After this time without an attempt, and again each time, a command asks why the job waits."""


class Reader:
    """Prints the events of one job. `cursor` is the id of the last event printed."""

    def __init__(
        self, job: JobHandle, *, after: str | None = None, shows_reasoning: bool | None = None
    ) -> None:
        """Raises `Problem` when `after` is not a cursor. None means: reasoning on a terminal."""
        self.cursor = after
        self.is_waiting = True
        self.chunks = 0
        self.first_chunk_s = self.last_chunk_s = 0.0
        self.job = job
        self._output = output.TextOutput()
        self._reasoning = messages.DimText(shown=shows_reasoning)
        self._call: list[ev.ToolCall] = []  # the pieces of the call that arrives
        try:
            self._has_text = after is not None and ev.Cursor.parse(after).seq > 0
        except ValueError as error:
            raise wrong_usage(f"--after: {error}") from None

    def say_how_to_resume(self) -> None:
        """Print the command that continues after the cursor."""
        resume = f"{program.command()} tail {self.job.id}"
        resume += f" --after {self.cursor}" if self.cursor else ""
        resume += " --json" if messages.as_json else ""
        cancel = f"{program.command()} cancel {self.job.id}"
        text = "The job continues. To read on"
        messages.say_how_to_resume(text, resume=resume, cancel=cancel)

    async def read(self) -> None:
        """Print all events until the job ends.

        Raises `JobFailed`, `JobCancelled`, `Problem` when printed text has become void, and what
        `JobHandle.events` raises. After a cancellation, reading can resume from `cursor`.
        """
        after = self.cursor
        # Events of earlier attempts are of use to programs only: their text is void.
        if after is None and not messages.as_json:
            after = await self.job.latest_attempt()
        try:
            async with aclosing(self.job.events(after)) as events:
                async for event in events:
                    self._handle(event)
        finally:
            self._reasoning.end_line()
            self._output.end_line()

    def _handle(self, event: ev.AnyEvent) -> None:
        self.is_waiting = isinstance(event, ev.Queued | ev.Retrying)
        if messages.as_json:
            output.write_line(ev.encode(event).decode())
        else:
            self._print(event)
        self.cursor = event.id
        if isinstance(event, ev.Failed):
            raise JobFailed(self.job.id, event.code, event.message)
        if isinstance(event, ev.Cancelled):
            raise JobCancelled(self.job.id)

    def _print(self, event: ev.AnyEvent) -> None:
        if not isinstance(event, ev.Reasoning):
            self._reasoning.end_line()
        if isinstance(event, ev.ToolCall):
            self._add_to_call(event)
            return
        if isinstance(event, ev.Completed | ev.Chunk | ev.Reasoning | ev.Refusal):
            self._print_call()
        if isinstance(event, ev.Started):
            self._start_attempt(event)
        elif isinstance(event, ev.Reasoning):
            self._reasoning.write(event.text)
        elif isinstance(event, ev.Chunk | ev.Refusal):
            self._output.write(event.text)
            self._count_piece(event)
        elif isinstance(event, ev.Retrying):
            self._output.end_line()
            # The event may be old, and the worker's clock may differ from ours.
            left_s = event.at_ms / 1000 + event.retry_in_s - time.time()
            left_s = min(max(left_s, 0), event.retry_in_s)
            text = f"{describe_attempt(event)}; the next starts in {left_s:.1f} s"
            messages.say(text, style="yellow")
        elif isinstance(event, ev.Completed) and event.finish_reason in _CUT:
            self._output.end_line()
            messages.say(_CUT[event.finish_reason], style="yellow")

    def _add_to_call(self, event: ev.ToolCall) -> None:
        """Keep a piece of a tool call; print the call before it."""
        if self._call and self._call[0].index != event.index:
            self._print_call()
        self._call.append(event)
        self._count_piece(event)

    def _print_call(self) -> None:
        if self._call:
            arguments = "".join(piece.arguments for piece in self._call)
            self._output.write_call(self._call[0].name or "…", arguments)
            self._call = []

    def _start_attempt(self, event: ev.Started) -> None:
        self._call = []
        if not self._has_text:
            return
        if not self._output.is_terminal:
            raise Problem(
                f"attempt {event.attempt} has started, so the text printed so far is void",
                f"To print the text when it is complete: {program.command()} result {self.job.id} "
                "--wait",
            )
        self._output.end_line()
        messages.say(f"— attempt {event.attempt}, from the beginning —", style="yellow")
        self._has_text = False
        self.chunks = 0

    def _count_piece(self, event: ev.Chunk | ev.Refusal | ev.ToolCall) -> None:
        self._has_text = True
        self.last_chunk_s = time.monotonic()
        if not self.chunks:
            self.first_chunk_s = self.last_chunk_s
        self.chunks += event.merged


async def follow(client: Client, reader: Reader) -> None:
    """Read until the job ends, and say why it waits. When interrupted, print how to resume.

    Raises what `Reader.read` raises.
    """
    # The reader itself prints how an attempt has ended, and when the next one starts.
    waits = say_why(client, reader.job, lambda: reader.is_waiting, besides=("next_try",))
    try:
        async with interrupts.run_beside(waits):
            await reader.read()
    except (asyncio.CancelledError, RedisUnavailable):
        reader.say_how_to_resume()
        raise


async def say_why(
    client: Client,
    job: JobHandle,
    is_waiting: Callable[[], bool] = lambda: True,
    *,
    besides: Container[Reason] = (),
) -> None:
    """Say why the job waits, and again when the reason changes, until this is cancelled.

    Not for the reasons in `besides`.
    """
    said: tuple[object, ...] = ()
    while True:
        await asyncio.sleep(WAIT_CHECK_S)
        why = None
        if is_waiting():
            with suppress(DarkqError):  # whatever waits for the job reports the same error
                (status,) = await client.explain([await job.status()])
                why = status.why
        if why is None or why.reason == "failed" or why.reason in besides:
            continue
        told = (why.reason, why.attempt, why.upstream, why.by)
        if told != said:
            said = told
            messages.say(_describe_wait(why), reason=why.reason, until_ms=why.until_ms)


def _describe_wait(why: Why) -> str:
    darkq = program.command()
    match why.reason:
        case "no_worker":
            return f"{why.message}, so the job waits. To start one: {darkq} up"
        case "queue_paused":
            return f"the job waits: {why.message}\nTo see the queues: {darkq} queues"
    return f"the job waits: {why.message}"
