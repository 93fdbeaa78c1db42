"""How a batch is shown while it runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from darkq_cli import talk
from darkq_cli.batch.standing import Standing
from darkq_cli.batch.state import Place
from darkq_cli.spans import span

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SAY_EVERY_S = 10.0
_RATE_OVER_S = 30.0
_BAR_CHARS = 20


@contextmanager
def checking(path: Path) -> Iterator[Callable[[int], None]]:
    """Show how much of an input has been checked; on a terminal only, it takes seconds."""
    if talk.as_json or not talk.console().is_terminal:
        yield lambda _: None
        return
    from rich.progress import Progress

    with Progress(console=talk.console(), transient=True) as bar:
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
        if not talk.as_json and talk.console().is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            # On a narrow terminal the words go on in the next line.
            words = TextColumn("{task.description}", table_column=Column())
            columns = (BarColumn(_BAR_CHARS, table_column=Column(min_width=_BAR_CHARS)), words)
            self._bar = Progress(*columns, console=talk.console(), transient=True)
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
            talk.say(
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
