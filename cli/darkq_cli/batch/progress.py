"""How a batch is shown while it runs: a bar on a terminal, a line now and then elsewhere.

What nobody tells a batch: how many of its jobs run, and what holds up the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from darkq import Batch, Client, UpstreamStatus
from darkq.batches.lines import ForAllLines
from darkq_cli.batch.state import Place
from darkq_cli.terminal import messages, program
from darkq_cli.terminal.durations import span

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SAY_EVERY_S = 10.0
_RATE_OVER_S = 30.0
_BAR_CHARS = 20


@contextmanager
def checking(path: Path) -> Iterator[Callable[[int], None]]:
    """Show how much of an input has been checked; on a terminal only, it takes seconds."""
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


class Progress:
    """Shows how far a batch has come. `lines` is how many it has in all."""

    def __init__(self, lines: int, place: Place) -> None:
        self.waits_for = ""
        """What the runner waits for, when that is not answers."""
        self.standing: Standing | None = None
        self._lines = lines
        self._samples = deque([_sample(place)])
        self._said_s = time.monotonic()
        self._said_waits_for = ""
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if not messages.as_json and messages.console().is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            # On a narrow terminal the words go on in the next line.
            words = TextColumn("{task.description}", table_column=Column())
            columns = (BarColumn(_BAR_CHARS, table_column=Column(min_width=_BAR_CHARS)), words)
            self._bar = Progress(*columns, console=messages.console(), transient=True)
            self._bar.start()
            self._bar.add_task("", total=self._lines)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, place: Place) -> None:
        """Show the place."""
        self._samples.append(_sample(place))
        while self._samples[-1].at_s - self._samples[0].at_s > _RATE_OVER_S:
            self._samples.popleft()
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=place.ended, description=self._words(place)
            )
        elif time.monotonic() - self._said_s >= SAY_EVERY_S or self._waits_for_more:
            self._said_s, self._said_waits_for = time.monotonic(), self.waits_for
            messages.say(
                self._words(place),
                lines=self._lines,
                completed=place.completed,
                failed=place.failed,
                running=self.standing.running if self.standing else None,
                waiting=self.standing.waiting if self.standing else None,
            )

    @property
    def _waits_for_more(self) -> bool:
        """Tell whether there is something to wait for that was not told."""
        return self.waits_for not in ("", self._said_waits_for)

    def _words(self, place: Place) -> str:
        words = [f"{place.written:,} of {self._lines:,} lines"]
        words += [f"{place.failed:,} failed"] if place.failed else []
        words += [f"{place.held:,} held"] if place.held else []
        if self.standing:
            words.append(f"{self.standing.running:,} running")
            words += [f"{self.standing.waiting:,} waiting"] if self.standing.waiting else []
        first, last = self._samples[0], self._samples[-1]
        took_s = last.at_s - first.at_s
        if took_s > 0 and last.ended > first.ended:
            per_s = (last.ended - first.ended) / took_s
            left_s = (self._lines - last.ended) / per_s
            words.append(f"{per_s:.1f} lines/s")
            words.append(f"{(last.chunks - first.chunks) / took_s:,.0f} chunks/s")
            words.append(f"{span(left_s)} left")
        reason = self.waits_for or (self.standing.reason if self.standing else "")
        words += [reason] if reason else []
        return ", ".join(words)


def _sample(place: Place) -> _Sample:
    return _Sample(time.monotonic(), place.ended, place.chunks)


class Standing(NamedTuple):
    """How many jobs run, how many wait, and why."""

    running: int
    waiting: int
    reason: str = ""


async def look(client: Client, batch: Batch, common: ForAllLines) -> Standing:
    """Ask Redis how a batch stands now.

    Who runs is known of all jobs of its priority together: of two bulk batches at once each may
    count the other's. Raises `BatchNotFound`, `RedisUnavailable`.
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
        reason = held_up(asked, retrying, now_ms=time.time() * 1000)
    return Standing(running, outstanding - running, reason)


def held_up(upstreams: Iterable[UpstreamStatus], retrying: int, *, now_ms: float) -> str:
    """Return what holds jobs up, in a few words; "" for nothing."""
    known = list(upstreams)
    words = [f"{retrying:,} retrying"] if retrying > 0 else []
    for upstream in known:
        found = ", ".join(_limits(upstream, now_ms))
        named = f"{messages.harmless(upstream.name)}: {found}" if len(known) > 1 else found
        words += [named] if found else []
    return ", ".join(words)


def _limits(upstream: UpstreamStatus, now_ms: float) -> Iterator[str]:
    if upstream.breaker == "half-open":
        yield "breaker half-open, one call tries"
    elif upstream.breaker != "closed":
        what = "breaker open" if upstream.breaker == "open" else "limited by the upstream"
        left_s = max(0.0, ((upstream.reopens_at_ms or 0) - now_ms) / 1000)
        yield f"{what} for {left_s:.0f} s more"
    for window in upstream.windows:
        if window.used >= window.calls:
            yield f"limit reached: {window.calls:,} calls in {window.length_s:g} s"
    if upstream.waiting:
        yield f"{upstream.waiting:,} put off"
