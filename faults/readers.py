"""Readers that stop reading, die, and come in thousands."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

from darkq.event import Cursor
from faults.check import Tally, Watch, judge_all
from faults.stage import Setup, Stage
from faults.suite import Fault
from support.waiting import wait_until

READERS = 1000
MAX_GROWTH_BYTES = 10 << 20  # four times a text
MAX_OUTPUT_BYTES = 128 << 10
_ROOT = Path(__file__).parents[1]

_FLOOD = Setup(chunks=200, chunks_per_s=150, piece_bytes=12_000)


class _ReaderProcess:
    """`reader_process` at work. What it printed goes to a file."""

    def __init__(self, stage: Stage, watch: Watch, after: str | None = None) -> None:
        self._out = stage.directory / f"reader-{os.urandom(4).hex()}"
        arguments = [stage.url, watch.job.id, *([after] if after else [])]
        with self._out.open("wb") as out, self._out.with_suffix(".log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "faults.reader_process", *arguments],
                stdout=out,
                stderr=log,
                cwd=_ROOT,
            )

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def has_read(self, *, events: int = 0, pieces: int = 0) -> None:
        await wait_until(
            "the reader to read",
            lambda: (
                self._process.poll() is not None  # a slow start can leave it fewer events
                or (len(self.lines) >= events and self.text.count(" ") >= pieces)
            ),
        )

    async def wait(self) -> int:
        return await asyncio.to_thread(self._process.wait, 30)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(30)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The events that it has printed in whole: id and text."""
        whole = self._out.read_bytes().rpartition(b"\n")[0]
        return [tuple(json.loads(line)) for line in whole.splitlines()]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.lines)


async def frozen(stage: Stage, rng: Random) -> Tally:
    """A reader that does not read is dropped by Redis, wakes up, and has the same text.

    Red if `Live` does not report a gap: the reader waits without an end, or misses text.
    """
    limit = f"pubsub {MAX_OUTPUT_BYTES} {MAX_OUTPUT_BYTES} 0"
    await stage.redis.config_set("client-output-buffer-limit", limit)
    (worker,) = await stage.crew(1)
    await judge_all([await stage.submit()], stage.model.is_whole)  # a text that is read in time
    before_bytes, drops = worker.peak_bytes, await _drops(stage)
    stage.model.waits_before = pieces = rng.randrange(3, 30)
    stage.model.goes_on.clear()
    watch = await stage.submit()
    reader = _ReaderProcess(stage, watch)
    try:
        await reader.has_read(pieces=pieces)  # the flood waits for it, however slowly it starts
        reader.send(signal.SIGSTOP)
        stage.model.goes_on.set()
        tally = await judge_all([watch], stage.model.is_whole)
        tally.require(await _drops(stage) > drops, "Redis drops a reader that does not read")
        reader.send(signal.SIGCONT)
        await reader.wait()
        _compare(reader.lines, watch, tally)
    finally:
        stage.model.waits_before = -1
        stage.model.goes_on.set()
        reader.end()
    growth = worker.peak_bytes - before_bytes
    tally.require(growth < MAX_GROWTH_BYTES, f"the worker grew by {growth >> 20} MB")
    return tally


async def _drops(stage: Stage) -> int:
    return int((await stage.redis.info("stats"))["client_output_buffer_limit_disconnections"])


async def killed(stage: Stage, rng: Random) -> Tally:
    """A reader is killed, and another goes on from the last event it had.

    Red when the tail reads the log from the cursor inclusive, or subscribes after reading.
    """
    await stage.crew(1)
    watch = await stage.submit()
    lines: list[tuple[str, str]] = []
    for _ in range(2):
        reader = _ReaderProcess(stage, watch, lines[-1][0] if lines else None)
        try:
            at = rng.randrange(1, 15)
            await reader.has_read(events=at)
        finally:
            reader.end()
        lines += reader.lines
        if lines[-1][0] == (watch.events[-1].id if watch.ended else None):
            break
    else:
        reader = _ReaderProcess(stage, watch, lines[-1][0])
        await reader.wait()
        lines += reader.lines
    tally = await judge_all([watch], stage.model.is_whole)
    _compare(lines, watch, tally)
    return tally


async def at_the_end(stage: Stage, rng: Random) -> Tally:
    """A reader is cut off, and its worker is killed, as the job ends. Then any cursor continues.

    Red if `finish` leaves out the events of earlier attempts, or a reader takes an empty log for
    the end.
    """
    await stage.crew(2)
    stage.model.waits_before = stage.setup.chunks - 1
    stage.model.goes_on.clear()
    watch = await stage.submit(tries=2, rests=lambda count: 0.01 if count % 7 == 0 else 0.0)
    try:
        await watch.until("all but the last words", lambda w: " " in w.text and _pieces(w) > 30)
        victim = await stage.holder(watch.job) or stage.workers[0]
        stage.model.goes_on.set()
        if rng.random() < 0.5:
            await watch.until("the last words", lambda w: _pieces(w) == stage.setup.chunks)
        else:
            await asyncio.sleep(rng.uniform(0, 0.05))
        await stage.redis.client_kill_filter(_type="pubsub")
        victim.send(signal.SIGKILL)
        await victim.wait()
        tally = await judge_all([watch], stage.model.is_whole)
    finally:
        stage.model.waits_before = -1
        stage.model.goes_on.set()
    for place, event in enumerate(watch.events):
        rest = [each async for each in watch.job.events(event.id)]
        tally.require(rest == watch.events[place + 1 :], f"the same events after {event.id}")
    return tally


def _pieces(watch: Watch) -> int:
    return watch.text.count(" ")


def _compare(lines: list[tuple[str, str]], watch: Watch, tally: Tally) -> None:
    cursors = [Cursor.parse(event_id) for event_id, _ in lines]
    tally.duplicated += cursors != sorted(set(cursors))
    tally.lost += [event.id for event in watch.events] != [event_id for event_id, _ in lines]
    tally.mixed += "".join(text for _, text in lines) != watch.text


async def crowd(stage: Stage, rng: Random) -> Tally:
    """1,000 readers of one job share one connection, and each has the same text.

    Red when each job's handle subscribes on a connection of its own (`Client.job`).
    """
    await stage.crew(1)
    watch = await stage.submit()
    bystander = await stage.submit()
    await watch.until("the first words", lambda w: len(w.events) >= rng.randrange(2, 6))
    count = READERS if stage.full else READERS // 4
    readers = [Watch(watch.job, watch.prompt) for _ in range(count)]
    for reader in readers:
        await reader.until("an event", lambda r: bool(r.events))
    subscribers = await stage.redis.client_list(_type="pubsub")
    ended = watch.ended
    tally = await judge_all([watch, bystander], stage.model.is_whole)
    tally.require(
        ended or len(subscribers) == 2,
        f"one subscriber of the worker and one of all readers, not {len(subscribers)}",
    )
    await asyncio.gather(*(reader.to_the_end() for reader in readers))
    for reader in readers:
        tally.lost += not reader.ended
        tally.mixed += reader.text != watch.text
    return tally


FAULTS = [
    Fault("reader: 1,000 of one job", crowd, 3),
    Fault("reader: SIGSTOP, dropped by Redis", frozen, 5, _FLOOD),
    Fault("reader: SIGKILL, another goes on", killed, 5, _FLOOD),
    Fault("reader: cut off as the job ends", at_the_end, 20),
]
