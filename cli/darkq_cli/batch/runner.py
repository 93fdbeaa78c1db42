"""Running a batch: lines in, answers out, until all are in the files.

The runner outlives a Redis that is away for some minutes, and a batch that Redis has forgotten:
what is not in the files is sent again, as another batch.

Leaving a batch: once, and its jobs go on; twice, and it is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager, closing, suppress

import msgspec

from darkq import Batch, Client, DarkqError, Finished
from darkq.batches.answers import answer_line, failure_line
from darkq.errors import (
    BatchNotFound,
    BatchTaken,
    CursorGone,
    NotReplicated,
    QueueFull,
    RedisUnavailable,
)
from darkq.openai.body import Endpoint
from darkq_cli.batch import progress as standing
from darkq_cli.batch.feeding import Feeder
from darkq_cli.batch.ledger import Ended, Ledger, Registry
from darkq_cli.batch.progress import Progress
from darkq_cli.batch.state import State
from darkq_cli.terminal import interrupts, messages, program
from darkq_cli.terminal.problems import Problem
from darkq_cli.terminal.redis import with_client

PATIENCE_S = 300.0
"""How long Redis may be away before the runner gives up."""
LOOK_EVERY_S = 2.0
_PAUSE_S = 0.5
_PATIENT_WITH = (RedisUnavailable, NotReplicated, QueueFull, BatchTaken, CursorGone)


def run(state: State, registry: Registry) -> None:
    """Run a batch until all its lines are in the files.

    Raises `Problem`, which says how to go on, where a disk is full or Redis is away for long.
    """

    async def use(client: Client) -> None:
        with closing(Ledger(state)) as ledger:
            await Runner(client, state, ledger, registry).run()

    try:
        with_client(use)
    except (Problem, *_PATIENT_WITH) as error:
        exit_code = error.exit_code if isinstance(error, Problem) else 1
        hint = getattr(error, "hint", "") or f"To go on: {resume_command(state.place.batch_id)}"
        raise Problem(str(error), hint, exit_code=exit_code, cause=error) from None


def resume_command(batch_id: str) -> str:
    """Return what to type to go on with a batch."""
    return f"{program.command()} batch resume {batch_id}"


class Runner:
    """Feeds a batch and collects it."""

    def __init__(self, client: Client, state: State, ledger: Ledger, registry: Registry) -> None:
        self._client = client
        self._state = state
        self._ledger = ledger
        self._registry = registry
        self._progress = Progress(state.plan.lines, state.place)
        self._feeder = Feeder(state.plan, ledger)

    async def run(self) -> None:
        """Run to the end. Cancelled, it says how to go on."""
        place = self._state.place
        if place.written:
            messages.say(
                f"going on: {place.written:,} of {self._state.plan.lines:,} lines are there"
            )
        with self._progress:
            looking = asyncio.create_task(self._look())
            try:
                async with leaving(self._batch):
                    await self._patiently()
            finally:
                looking.cancel()
                await asyncio.wait([looking])

    def _batch(self) -> Batch | None:
        """The batch, if Redis has been asked to make it."""
        batch_id = self._state.place.batch_id
        return self._client.batch(batch_id) if batch_id else None

    async def _patiently(self) -> None:
        last_s, seen = time.monotonic(), self._state.place.ended
        batch = self._batch() or self._new()
        while not self._state.complete:
            before = self._state.place.ended
            try:
                await self._once(batch)
                if not self._state.complete:
                    if self._state.place.ended == before:
                        raise Problem("Redis has lost all lines of the batch")
                    batch = self._lost()
            except BatchNotFound:
                batch = self._lost()
            except _PATIENT_WITH as error:
                if self._state.place.ended != seen:
                    last_s, seen = time.monotonic(), self._state.place.ended
                if time.monotonic() - last_s > PATIENCE_S:
                    raise
                self._progress.waits_for = _reason(error)
                self._progress.show(self._state.place)
                await asyncio.sleep(_PAUSE_S)

    def _new(self) -> Batch:
        """A batch that Redis does not know yet; from here on a resume will ask for it."""
        plan = self._state.plan
        metadata = {"endpoint": plan.endpoint}
        batch = self._client.batch(name=plan.name, window=plan.window, metadata=metadata)
        self._state.commit(msgspec.structs.replace(self._state.place, batch_id=batch.id))
        self._registry.add(batch.id, plan.files.state)
        messages.say(f"batch {batch.id}", style="dim", id=batch.id)
        return batch

    def _lost(self) -> Batch:
        """Redis has lost lines, or the batch: what is missing goes into another one."""
        if self._state.place.ended:
            messages.say("Redis has forgotten lines of the batch; they are sent again")
        return self._new()

    async def _once(self, batch: Batch) -> None:
        """Feed and collect until the batch has ended, or something fails."""
        async with batch:
            self._progress.waits_for = ""
            feeding = asyncio.create_task(self._feeder.feed(batch))
            collecting = asyncio.create_task(self._collect(batch))
            try:
                await asyncio.wait([feeding, collecting], return_when=asyncio.FIRST_COMPLETED)
                if not collecting.done():
                    feeding.result()
                    await collecting
            finally:
                await _end(feeding, collecting)
            collecting.result()
            if not self._state.complete and (await batch.status()).state.startswith("cancel"):
                self._feeder.write_off(batch.id)

    async def _collect(self, batch: Batch) -> None:
        async with aclosing(batch.collected()) as pages:
            async for page in pages:
                there = [finished for finished in page if finished.outcome != "missing"]
                self._ledger.take(written(there, self._state.plan.endpoint))
                await batch.acknowledge(page)
                self._feeder.moved()
                lost = {finished.number for finished in page if finished.outcome == "missing"}
                await self._feeder.send_again(batch, lost)
                self._progress.show(self._state.place)

    async def _look(self) -> None:
        """Now and then look at what nobody tells: how many jobs run, and what holds others up."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            batch = self._batch()
            if batch is None:
                continue
            with suppress(DarkqError):  # the runner itself will tell
                common = self._state.plan.common
                self._progress.standing = await standing.look(self._client, batch, common)
                self._progress.show(self._state.place)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it was told of, or is of a side that does not matter any more


def written(page: Iterable[Finished], endpoint: Endpoint) -> list[Ended]:
    """Return the ends as what is to be written of them."""
    return [_ended(finished, endpoint) for finished in page]


def _ended(finished: Finished, endpoint: Endpoint) -> Ended:
    result = finished.result
    if result is None:
        code = finished.code or finished.outcome
        line = failure_line(finished.custom_id, finished.job_id, code, finished.message)
        return Ended(finished.number, True, line)
    line = answer_line(finished.custom_id, result, endpoint)
    tokens = result.usage.completion_tokens if result.usage else 0
    return Ended(finished.number, False, line, result.chunks, tokens)


def _reason(error: Exception) -> str:
    match error:
        case BatchTaken():
            return "waits for its last runner's lease to run out"
        case QueueFull():
            return "waits for room in the queue"
        case NotReplicated():
            return "waits for replicas of Redis"
        case CursorGone():
            return "reads again what Redis has lost"
    return "waits for Redis, which does not answer"


SECOND_THOUGHTS_S = 3.0
CANCEL_TIMEOUT_S = 10.0


@asynccontextmanager
async def leaving(batch: Callable[[], Batch | None]) -> AsyncIterator[None]:
    """On Ctrl-C in the block say how to go on; on another soon after, cancel the batch.

    Raises `CancelledError` in the end, as the block does.
    """
    try:
        yield
    except asyncio.CancelledError:
        left = batch()
        if left is not None:
            _say_how_to_go_on(left)
            if interrupts.exit_code() == interrupts.CTRL_C_EXIT_CODE:
                await _second_thoughts(left)
        raise


def _say_how_to_go_on(batch: Batch) -> None:
    darkq = program.command()
    resume, cancel = f"{darkq} batch resume {batch.id}", f"{darkq} batch cancel {batch.id}"
    messages.leave_line()
    messages.say(
        f"What was sent goes on without this. To go on:\n  {resume}\nTo stop it:\n  {cancel}",
        resume=resume,
        cancel=cancel,
    )


async def _second_thoughts(batch: Batch) -> None:
    messages.say(f"Ctrl-C again within {SECOND_THOUGHTS_S:g} s cancels the batch.")
    try:
        await asyncio.sleep(SECOND_THOUGHTS_S)
    except asyncio.CancelledError:
        messages.leave_line()
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                await batch.cancel()
        except (DarkqError, TimeoutError) as error:
            messages.say(f"it was not cancelled: {error}", style="red")
        else:
            messages.say("The batch is cancelled; resume writes what had ended.", style="yellow")
        raise
