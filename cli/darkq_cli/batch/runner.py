"""Runs a batch: sends lines and writes their results until all are in the files.

The runner survives an outage of Redis of some minutes. When Redis has lost the batch or lines of
it, it sends the missing lines again in a new batch.

Ctrl-C leaves the jobs of the batch running. Only `darkq batch cancel` cancels them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, closing, suppress

import msgspec

from darkq import Batch, Client, DarkqError, errors
from darkq_cli.batch.feeding import Feeder
from darkq_cli.batch.ledger import Ledger, Registry
from darkq_cli.batch.progress import BatchProgress, read_job_counts
from darkq_cli.batch.state import State
from darkq_cli.terminal import messages, program
from darkq_cli.terminal.interrupts import run_beside
from darkq_cli.terminal.problems import Problem
from darkq_cli.terminal.redis import with_client

GIVE_UP_AFTER_S = 300.0
"""How long the runner retries without progress before it gives up."""
REFRESH_INTERVAL_S = 2.0
_RETRY_INTERVAL_S = 0.5
_WAITS: dict[type[Exception], str] = {
    errors.BatchTaken: "waits until the lease of its last runner expires",
    errors.QueueFull: "waits for room in the queue",
    errors.NotReplicated: "waits for replicas of Redis",
    errors.CursorGone: "reads results again, after Redis has lost some",
    errors.RedisUnavailable: "waits for Redis, which does not answer",
}
"""What the runner retries, and what it then waits for."""
_RETRIED = tuple(_WAITS)
_FATAL: tuple[type[Exception], ...] = (Problem, *_RETRIED)


def run(state: State, registry: Registry) -> None:
    """Run a batch until all its lines are in the files.

    Raises `Problem` with the command that resumes it, after a full disk or a long outage of Redis.
    """

    async def use(client: Client) -> None:
        with closing(Ledger(state)) as ledger:
            await Runner(client, state, ledger, registry).run()

    try:
        with_client(use)
    except _FATAL as error:
        exit_code = error.exit_code if isinstance(error, Problem) else 1
        resume = f"{program.command()} batch resume {state.checkpoint.batch_id}"
        hint = getattr(error, "hint", "") or f"To resume: {resume}"
        raise Problem(str(error), hint, exit_code=exit_code, cause=error) from None


class Runner:
    """Sends the lines of a batch and collects their results."""

    def __init__(self, client: Client, state: State, ledger: Ledger, registry: Registry) -> None:
        self._client = client
        self._state = state
        self._ledger = ledger
        self._registry = registry
        self._progress = BatchProgress(state.plan.lines, state.checkpoint)
        self._feeder = Feeder(state.plan, ledger)

    async def run(self) -> None:
        """Run to the end. When cancelled, print how to resume."""
        written = self._state.checkpoint.written
        if written:
            messages.say(f"resuming: {written:,} of {self._state.plan.lines:,} lines are written")
        with self._progress:
            try:
                async with run_beside(self._refresh_job_counts()):
                    await self._run_with_retries()
            except asyncio.CancelledError:
                self._say_how_to_resume()
                raise

    def _say_how_to_resume(self) -> None:
        if not (batch_id := self._state.checkpoint.batch_id):
            return
        darkq = program.command()
        resume, cancel = f"{darkq} batch resume {batch_id}", f"{darkq} batch cancel {batch_id}"
        text = "The jobs that were sent continue. To resume"
        messages.say_how_to_resume(text, resume=resume, cancel=cancel)

    def _find_batch(self) -> Batch | None:
        batch_id = self._state.checkpoint.batch_id
        return self._client.batch(batch_id) if batch_id else None

    async def _run_with_retries(self) -> None:
        # The time limit counts from the last progress, so a slow batch is never given up.
        last_s, seen = time.monotonic(), self._state.checkpoint.ended
        batch = self._find_batch() or self._create()
        while not self._state.complete:
            before = self._state.checkpoint.ended
            try:
                await self._run_once(batch)
                if not self._state.complete:
                    # The batch has ended in Redis, and lines are missing here. Without any
                    # progress, a replacement would only repeat that.
                    if self._state.checkpoint.ended == before:
                        raise Problem("Redis has lost all lines of the batch")
                    batch = self._replace()
            except errors.BatchNotFound:
                batch = self._replace()
            except _RETRIED as error:
                if self._state.checkpoint.ended != seen:
                    last_s, seen = time.monotonic(), self._state.checkpoint.ended
                if time.monotonic() - last_s > GIVE_UP_AFTER_S:
                    raise
                waits = (text for kind, text in _WAITS.items() if isinstance(error, kind))
                self._progress.waits_for = next(waits)
                self._progress.show_checkpoint(self._state.checkpoint)
                await asyncio.sleep(_RETRY_INTERVAL_S)

    def _create(self) -> Batch:
        """Create a batch, and commit its id before Redis knows it, so that a resume finds it."""
        plan = self._state.plan
        metadata = {"endpoint": plan.endpoint}
        batch = self._client.batch(
            name=plan.name,
            window=plan.window,
            metadata=metadata,
            lines=plan.lines - self._state.checkpoint.ended,
        )
        self._state.commit(msgspec.structs.replace(self._state.checkpoint, batch_id=batch.id))
        self._registry.add(batch.id, plan.files.state)
        messages.say(f"batch {batch.id}", style="dim", id=batch.id)
        return batch

    def _replace(self) -> Batch:
        """Create a batch for the missing lines, after Redis has lost lines or the whole batch."""
        if self._state.checkpoint.ended:
            messages.say("Redis has lost lines of the batch; sending them again")
        return self._create()

    async def _run_once(self, batch: Batch) -> None:
        """Send and collect until the batch has ended or something fails."""
        async with batch:
            self._progress.waits_for = ""
            feeding = asyncio.create_task(self._feeder.feed(batch))
            collecting = asyncio.create_task(self._collect(batch))
            try:
                # Normally all lines are sent first. Collecting ends first when the batch was
                # cancelled, or fails; then there is nothing left to send.
                await asyncio.wait([feeding, collecting], return_when=asyncio.FIRST_COMPLETED)
                if not collecting.done():
                    feeding.result()
                    await collecting
            finally:
                await _cancel(feeding, collecting)
            collecting.result()
            if not self._state.complete and (await batch.status()).state.startswith("cancel"):
                self._feeder.record_unsent(batch.id)

    async def _collect(self, batch: Batch) -> None:
        async with aclosing(batch.collected()) as pages:
            async for page in pages:
                # First on disk, then acknowledged: a kill in between delivers the page again.
                named = self._feeder.restore_custom_ids(page)
                self._ledger.write(self._ledger.render(named))
                await batch.acknowledge(page)
                self._feeder.notify_written()
                lost = {finished.number for finished in page if finished.outcome == "missing"}
                await self._feeder.send_again(batch, lost)
                self._progress.show_checkpoint(self._state.checkpoint)

    async def _refresh_job_counts(self) -> None:
        """Read the counts of jobs and the reasons for delays repeatedly."""
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            batch = self._find_batch()
            if batch is None:
                continue
            with suppress(DarkqError):  # the runner reports the same error
                common = self._state.plan.common
                self._progress.jobs = await read_job_counts(self._client, batch, common)
                self._progress.show_checkpoint(self._state.checkpoint)


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks it as retrieved: it was raised before, or no longer matters
