"""Shows the progress of a batch: counts, rates, and the reasons for delays.

The batch itself knows neither how many of its jobs run nor why others wait. `read_job_counts` asks
Redis for that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from darkq import Batch, Client, UpstreamStatus
from darkq.batches.lines import ForAllLines
from darkq_cli.batch.state import Checkpoint
from darkq_cli.terminal import messages, program
from darkq_cli.terminal.progress import ProgressBar
from darkq_cli.terminal.units import format_duration

_RATE_OVER_S = 30.0


@contextmanager
def show_checking(path: Path) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how much of an input is checked. Yields a function for its position."""
    if messages.as_json or not messages.console().is_terminal:
        yield lambda _: None
        return
    from rich.progress import Progress

    with Progress(console=messages.console(), transient=True) as bar:
        size = path.stat().st_size
        read = bar.add_task(f"checking {path.name}", total=size)
        yield lambda position: bar.update(read, completed=position)


class _Sample(NamedTuple):
    at_s: float
    ended: int
    chunks: int


class BatchProgress(ProgressBar):
    """Shows the progress of a batch with this number of lines."""

    def __init__(self, lines: int, checkpoint: Checkpoint) -> None:
        super().__init__(lines)
        self.waits_for = ""
        """What the runner waits for other than results."""
        self.jobs: JobCounts | None = None
        self._lines = lines
        self._samples = deque([_take_sample(checkpoint)])
        self._reported_wait = ""

    def show_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Show this progress."""
        self._samples.append(_take_sample(checkpoint))
        while self._samples[-1].at_s - self._samples[0].at_s > _RATE_OVER_S:
            self._samples.popleft()
        # Without a terminal, report each wait once, without waiting for the interval.
        was_written = self.show(
            checkpoint.ended,
            self._describe(checkpoint),
            at_once=self.waits_for not in ("", self._reported_wait),
            lines=self._lines,
            completed=checkpoint.completed,
            failed=checkpoint.failed,
            running=self.jobs.running if self.jobs else None,
            waiting=self.jobs.waiting if self.jobs else None,
        )
        if was_written:
            self._reported_wait = self.waits_for

    def _describe(self, checkpoint: Checkpoint) -> str:
        words = [f"{checkpoint.written:,} of {self._lines:,} lines"]
        words += [f"{checkpoint.failed:,} failed"] if checkpoint.failed else []
        words += [f"{checkpoint.held:,} held"] if checkpoint.held else []
        if self.jobs:
            words.append(f"{self.jobs.running:,} running")
            words += [f"{self.jobs.waiting:,} waiting"] if self.jobs.waiting else []
        first, last = self._samples[0], self._samples[-1]
        took_s = last.at_s - first.at_s
        if took_s > 0 and last.ended > first.ended:
            per_s = (last.ended - first.ended) / took_s
            left_s = (self._lines - last.ended) / per_s
            words.append(f"{per_s:.1f} lines/s")
            words.append(f"{(last.chunks - first.chunks) / took_s:,.0f} chunks/s")
            words.append(f"{format_duration(left_s)} left")
        reason = self.waits_for or (self.jobs.reason if self.jobs else "")
        words += [reason] if reason else []
        return ", ".join(words)


def _take_sample(checkpoint: Checkpoint) -> _Sample:
    return _Sample(time.monotonic(), checkpoint.ended, checkpoint.chunks)


class JobCounts(NamedTuple):
    """How many jobs of a batch run, how many wait, and why they wait."""

    running: int
    waiting: int
    reason: str = ""


async def read_job_counts(client: Client, batch: Batch, common: ForAllLines) -> JobCounts:
    """Read how many jobs of a batch run and wait now.

    Redis counts the running jobs of a queue, not of a batch. So with two batches in one queue, each
    may count jobs of the other. Raises `BatchNotFound`, `RedisUnavailable`.
    """
    outstanding = (await batch.status()).outstanding
    queue = next(queue for queue in await client.queues() if queue.priority == common.priority)
    running = min(outstanding, queue.running)
    if not await client.workers():
        reason = f"no worker is running; to start one: {program.command()} up"
    else:
        serving = await client.upstreams()
        asked = [each for each in serving if common.upstream in (None, each.name)]
        retrying = min(outstanding - running, queue.deferred - sum(u.waiting for u in asked))
        reason = describe_delays(asked, retrying, now_ms=time.time() * 1000)
    return JobCounts(running, outstanding - running, reason)


def describe_delays(upstreams: Iterable[UpstreamStatus], retrying: int, *, now_ms: float) -> str:
    """Describe why jobs wait; "" if there is no reason."""
    known = list(upstreams)
    words = [f"{retrying:,} retrying"] if retrying > 0 else []
    for upstream in known:
        found = ", ".join(_list_delays(upstream, now_ms))
        named = f"{messages.replace_controls(upstream.name)}: {found}" if len(known) > 1 else found
        words += [named] if found else []
    return ", ".join(words)


def _list_delays(upstream: UpstreamStatus, now_ms: float) -> Iterator[str]:
    if upstream.breaker == "half-open":
        yield "breaker half-open, testing with one call"
    elif upstream.breaker != "closed":
        what = "breaker open" if upstream.breaker == "open" else "limited by the upstream"
        left_s = max(0.0, ((upstream.reopens_at_ms or 0) - now_ms) / 1000)
        yield f"{what} for {left_s:.0f} s more"
    for window in upstream.windows:
        if window.used >= window.calls:
            yield f"limit reached: {window.calls:,} calls in {window.length_s:g} s"
    if upstream.waiting:
        yield f"{upstream.waiting:,} deferred"
