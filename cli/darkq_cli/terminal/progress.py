"""Progress: a bar on a terminal, elsewhere a message every 10 seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from darkq_cli.terminal import messages

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

MESSAGE_INTERVAL_S = 10.0
_BAR_CHARS = 20


class ProgressBar:
    """A bar with a text beside it. Without a total, the bar shows activity only."""

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._last_message_s = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if not messages.as_json and messages.console().is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            # The minimum width makes a narrow terminal wrap the text, not squeeze the bar.
            bar = BarColumn(
                _BAR_CHARS, complete_style="cyan", table_column=Column(min_width=_BAR_CHARS)
            )
            text = TextColumn("{task.description}", table_column=Column())
            self._bar = Progress(bar, text, console=messages.console(), transient=True)
            self._bar.start()
            self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, done: int, text: str, /, *, at_once: bool = False, **facts: Any) -> bool:
        """Show how much is done. Return whether that wrote a message.

        `at_once` writes it without waiting for the interval. `facts` are its fields with `--json`.
        """
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, description=text)
        elif at_once or time.monotonic() - self._last_message_s >= MESSAGE_INTERVAL_S:
            self._last_message_s = time.monotonic()
            messages.say(text, **facts)
            return True
        return False


class CountProgress(ProgressBar):
    """Shows one count, such as `1,200 of 5,000 jobs have ended`, and others after it."""

    def __init__(self, words: str, *, total: int | None = None) -> None:
        super().__init__(total)
        self._words = words

    def show_count(self, done: int, **counts: int) -> None:
        """Show how much is done, and the counts that are not zero."""
        total = "" if self._total is None else f" of {self._total:,}"
        others = "".join(f", {count:,} {name}" for name, count in counts.items() if count)
        text = f"{done:,}{total} {self._words}{others}"
        facts: dict[str, Any] = {"done": done, "total": self._total, **counts}
        self.show(done, text, **facts)
