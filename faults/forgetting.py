"""Checks the promises that hold when Redis loses writes that it has just acknowledged.

A job may be lost if its acknowledgement is excused; then its readers get an error. Any other job
ends with a whole result, though its readers may have to begin anew. A reader that stays connected
never gets a text joined from two runs, and a later reader gets exactly what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from darkq import Client, CursorGone, DarkqError, JobNotFound
from darkq.event import Completed
from faults.check import Tally, Watch
from faults.stage import Stage

Excused = Callable[[Watch], bool]


class Window(NamedTuple):
    """From when to when an acknowledgement may have been forgotten, as `time.monotonic` tells."""

    since_s: float
    until_s: float

    def covers(self, watch: Watch) -> bool:
        return self.since_s <= watch.enqueued_s <= self.until_s


def nothing(_: Watch) -> bool:
    """Excuse no loss."""
    return False


async def judge_all(stage: Stage, watches: Sequence[Watch], excused: Excused) -> Tally:
    """Wait for every watch's end and judge each; then look for each job on the remaining servers.

    A client that was there all the while may still speak to a server that another has replaced,
    and find everything there.
    """
    await asyncio.gather(*(watch.to_the_end() for watch in watches))
    tally = Tally()
    for each in await asyncio.gather(*(_judge(stage, watch, excused) for watch in watches)):
        tally.add(each)
    await stage.settled()
    async with Client(settings=stage.settings()) as newcomer:
        for watch in watches:
            try:
                await newcomer.job(watch.job.id).status()
            except JobNotFound:
                if not isinstance(watch.error, JobNotFound):  # else it is counted
                    _gone(watch, excused, tally)
    return tally


async def _judge(stage: Stage, watch: Watch, excused: Excused) -> Tally:
    tally = Tally(jobs=1)
    cursors = [event.cursor for event in watch.events]
    tally.duplicated += cursors != sorted(set(cursors))
    if watch.ended:
        completed = isinstance(watch.events[-1], Completed)
        tally.require(completed, f"{watch.prompt} ended as {watch.events[-1]}")
        if completed and not stage.model.is_whole(watch.prompt, watch.text):
            # Who comes anew with a cursor of a run that is forgotten cannot know that it is.
            tally.forgotten += watch.returned
            if not watch.returned:
                tally.mix(watch.prompt, read=watch.story)
        tally.add(await _read_again(stage, watch, excused))
    elif isinstance(watch.error, JobNotFound):
        _gone(watch, excused, tally)
    elif watch.error is None:
        tally.lost += 1
        tally.broken.append(f"{watch.prompt}: a reader waits without an end")
    else:
        tally.add(await _result(stage, watch))
    return tally


def _gone(watch: Watch, excused: Excused, tally: Tally) -> None:
    if excused(watch):
        tally.forgotten += 1
    else:
        tally.lost += 1
        tally.broken.append(f"{watch.prompt} is gone, though its acknowledgement counts")


async def _result(stage: Stage, watch: Watch) -> Tally:
    """Check that a reader whose run was lost finds the result of another run."""
    tally = Tally()
    try:
        result = await watch.job.result(timeout_s=20)
    except DarkqError as error:
        tally.lost += 1
        told = type(watch.error).__name__
        tally.broken.append(f"{watch.prompt}: {told}, then no result: {type(error).__name__}")
    else:
        tally.wrong += not stage.model.is_whole(watch.prompt, result.text)
    return tally


async def _read_again(stage: Stage, watch: Watch, excused: Excused) -> Tally:
    """A log that was written on after its end was torn off has no hole: a newcomer reads it."""
    tally = Tally()
    newcomer = Watch(watch.job, watch.prompt)
    await newcomer.to_the_end()
    if isinstance(newcomer.error, JobNotFound):  # it was made and ended, and all is forgotten
        _gone(watch, excused, tally)
        return tally
    if isinstance(newcomer.error, CursorGone):  # its run is forgotten while it reads
        return await _result(stage, watch)
    tally.require(newcomer.ended, f"{watch.prompt}: a newcomer sees the end: {newcomer.error}")
    if newcomer.ended and isinstance(newcomer.events[-1], Completed):
        result = await watch.job.result(timeout_s=20)
        if newcomer.text != result.text:
            tally.mix(watch.prompt, read=watch.story, again=newcomer.story, result=str(result.text))
    return tally
