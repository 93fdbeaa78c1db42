"""Checks the promises to the readers of a job.

A `Watch` reads a job's events as a client would, and resumes with its last cursor after each outage
of Redis. Each piece of an answer names its call and its prompt (see `stage`), so text of two
attempts cannot be mistaken for one.

    lost        acknowledged, but without a terminal event or a result
    forgotten   the same, where it is not promised: Redis had it on no disk and no replica yet
    duplicated  an event seen twice or out of order, or one job stored as two
    mixed       a chunk outside its attempt, or a text that differs from the result's
    wrong       `completed`, but not with the whole answer of one call of the upstream
    broken      any other violation, in words
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from darkq import DarkqError, JobHandle, RedisUnavailable
from darkq.event import TERMINAL, AnyEvent, Chunk, Completed, Retrying, Started
from support.waiting import wait_until

if TYPE_CHECKING:
    from faults.stage import Stage

END_TIMEOUT_S = 45.0
_PAUSE_S = 0.05

Rests: TypeAlias = Callable[[int], float]
"""Says for how many seconds a reader leaves after so many events; 0 is to read on."""


def always_reading(_: int) -> float:
    return 0.0


@dataclass
class Tally:
    """The outcome of one run of a fault, or of all runs. Times in seconds."""

    jobs: int = 0
    lost: int = 0
    forgotten: int = 0
    duplicated: int = 0
    mixed: int = 0
    wrong: int = 0
    broken: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    """For each job with mixed texts, what was read and what is stored."""
    recoveries_s: list[float] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    """Other measurements of each run."""

    def add(self, other: Tally) -> None:
        """Add another tally."""
        self.jobs += other.jobs
        self.lost += other.lost
        self.forgotten += other.forgotten
        self.duplicated += other.duplicated
        self.mixed += other.mixed
        self.wrong += other.wrong
        self.broken += other.broken
        self.details += other.details
        self.recoveries_s += other.recoveries_s
        self.figures += other.figures

    def require(self, kept: bool, promise: str) -> None:
        """Note a promise that was not kept."""
        if not kept:
            self.broken.append(promise)

    def mix(self, prompt: str, **texts: str) -> None:
        """Note that texts were mixed, with each of them."""
        self.mixed += 1
        words = "; ".join(f"{name}: {text}" for name, text in texts.items())
        self.details.append(f"{prompt} is mixed. {words}")

    def recovered(self, after_s: float, limit_s: float | None = None) -> None:
        """Note how long a recovery took, and whether that was too long."""
        self.recoveries_s.append(after_s)
        if limit_s is not None:
            self.require(after_s <= limit_s, f"recovered within {limit_s:g} s: {after_s:.2f} s")


class Watch:
    """Reads a job to its end in the background, and keeps every event with its time."""

    def __init__(self, job: JobHandle, prompt: str, rests: Rests = always_reading) -> None:
        self.job = job
        self.prompt = prompt
        self.enqueued_s = time.monotonic()
        self.events: list[AnyEvent] = []
        self.seen_s: list[float] = []
        self.error: DarkqError | None = None
        self.returned = False
        """Whether it has resumed with a cursor."""
        self.on_event: Callable[[AnyEvent], object] = lambda _: None
        self._rests = rests
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not self.ended:
            self.returned = bool(self.events)
            await asyncio.sleep(self._rests(len(self.events)))
            try:
                await self._read_on()
            except RedisUnavailable:
                await asyncio.sleep(_PAUSE_S)
            except DarkqError as error:
                self.error = error
                return

    async def _read_on(self) -> None:
        """Read from the last cursor, to the end or until it is time for a rest."""
        after = self.events[-1].id if self.events else None
        async with aclosing(self.job.events(after)) as events:
            async for event in events:
                self.on_event(event)
                self.events.append(event)
                self.seen_s.append(time.monotonic())
                if not self.ended and self._rests(len(self.events)):
                    return

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], TERMINAL)

    @property
    def attempts(self) -> int:
        """How many attempts have begun."""
        return sum(isinstance(event, Started) for event in self.events)

    @property
    def retries(self) -> list[Retrying]:
        return [event for event in self.events if isinstance(event, Retrying)]

    @property
    def text(self) -> str:
        """The text of the latest attempt."""
        pieces: list[str] = []
        for event in self.events:
            if isinstance(event, Started):
                pieces = []
            elif isinstance(event, Chunk):
                pieces.append(event.text)
        return "".join(pieces)

    @property
    def story(self) -> str:
        """Every event that was read, and the beginning of each chunk, for debugging."""
        return " ".join(
            f"{e.id}[{e.text.split(' ', 1)[0]}]"
            if isinstance(e, Chunk)
            else f"{e.id}:{type(e).__name__}"
            for e in self.events
        )

    async def until(self, what: str, condition: Callable[[Watch], bool]) -> None:
        """Wait until a condition holds, or the end has come."""
        await wait_until(
            f"{what} of {self.prompt}", lambda: self.ended or condition(self), END_TIMEOUT_S
        )

    async def to_the_end(self) -> None:
        """Wait for the terminal event, an error, or the timeout."""
        await asyncio.wait([self._task], timeout=END_TIMEOUT_S)
        self.leave()

    def leave(self) -> None:
        """Stop reading."""
        self._task.cancel()

    def after(self, moment_s: float) -> float | None:
        """Seconds from a moment in the midst of the job to its next event."""
        if not self.seen_s or self.seen_s[0] > moment_s:
            return None
        return next((seen - moment_s for seen in self.seen_s if seen > moment_s), None)

    def restarted(self, moment_s: float) -> float | None:
        """Seconds from a moment to the next attempt's `started`."""
        pairs = zip(self.events, self.seen_s, strict=True)
        return next(
            (s - moment_s for e, s in pairs if isinstance(e, Started) and s > moment_s), None
        )


async def judge(watch: Watch, is_whole: Callable[[str, str], bool]) -> Tally:
    """Check a watch that has ended. `is_whole(prompt, text)` compares the text with the answer."""
    tally = Tally(jobs=1)
    cursors = [event.cursor for event in watch.events]
    if cursors != sorted(set(cursors)):
        tally.duplicated += 1
    if not watch.ended:
        tally.lost += 1
        where = watch.events[-1].id if watch.events else "the beginning"
        tally.broken.append(f"{watch.prompt} ended at {where}: {type(watch.error).__name__}")
        return tally
    begun = 0
    for event in watch.events:
        if isinstance(event, Started):
            begun = event.attempt
        elif isinstance(event, Chunk) and event.cursor.attempt != begun:
            tally.mix(watch.prompt, read=watch.story)
            break
    if isinstance(watch.events[-1], Completed):
        await _judge_result(watch, is_whole, tally)
    return tally


async def _judge_result(watch: Watch, is_whole: Callable[[str, str], bool], tally: Tally) -> None:
    try:
        result = await watch.job.result(timeout_s=10)
    except DarkqError as error:
        tally.lost += 1
        tally.broken.append(f"{watch.prompt} has no result: {type(error).__name__}")
        return
    if watch.text != result.text:
        tally.mix(watch.prompt, read=watch.story, result=result.text)
    if not is_whole(watch.prompt, result.text):
        tally.wrong += 1


async def judge_all(watches: list[Watch], is_whole: Callable[[str, str], bool]) -> Tally:
    """Wait for the end of every watch, and check each: all must have completed."""
    tally = Tally()
    await asyncio.gather(*(watch.to_the_end() for watch in watches))
    for watch in watches:
        tally.add(await judge(watch, is_whole))
        if watch.ended:
            last = watch.events[-1]
            tally.require(isinstance(last, Completed), f"{watch.prompt} ended as {last}")
    return tally


def require_one_attempt(stage: Stage, watches: list[Watch], tally: Tally) -> None:
    """Require that no job was interrupted: one attempt, and one call of the upstream."""
    for watch in watches:
        calls = stage.model.calls[watch.prompt]
        tally.require(watch.attempts == 1, f"one attempt, not {watch.attempts}")
        tally.require(calls == 1, f"one call of the upstream, not {calls}")
