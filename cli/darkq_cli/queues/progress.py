"""How far something has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from darkq_cli.terminal import messages

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SAY_EVERY_S = 10.0


class Progress:
    """Shows a count. `words` say what has been done; without a total there is no end to see."""

    def __init__(self, words: str, *, total: int | None = None) -> None:
        self._words = words
        self._total = total
        self._said_s = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if not messages.as_json and messages.console().is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (BarColumn(20), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=messages.console(), transient=True)
            self._bar.start()
            self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, done: int, **counts: int) -> None:
        """Show how much is done, and counts beside it."""
        of = "" if self._total is None else f" of {self._total:,}"
        beside = "".join(f", {count:,} {name}" for name, count in counts.items() if count)
        text = f"{done:,}{of} {self._words}{beside}"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, description=text)
        elif time.monotonic() - self._said_s >= SAY_EVERY_S:
            self._said_s = time.monotonic()
            facts: dict[str, Any] = {"done": done, "total": self._total, **counts}
            messages.say(text, **facts)
