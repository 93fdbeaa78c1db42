"""A reading on the screen, or as plain text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.text import Text

from darkq_cli.terminal import messages, output
from darkq_cli.terminal.units import format_duration, format_time
from darkq_cli.top.reading import Outage, Reading
from darkq_cli.top.tables import History, render_tables

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_PLAIN_CHARS = 200


class Panel:
    """The content of the screen: the last reading, and an outage of Redis."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._reading: Reading | None = None
        self._outage: Outage | None = None
        self._history = History()

    def update(self, latest: Reading | Outage) -> None:
        """Replace the content."""
        if isinstance(latest, Outage):
            self._outage = latest
        else:
            self._reading, self._outage = latest, None
            self._history.add(latest)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._render_head(options.max_width)
        lines = 1
        if self._outage is not None:
            yield self._render_outage(self._outage)
            lines += 1
        if self._reading is not None:
            height = (options.height or options.size.height) - lines
            yield from render_tables(self._reading, self._history, options.max_width, height)

    def _render_head(self, width: int) -> Text:
        right = f"{time.strftime('%H:%M:%S')}  q quits"
        left = Text(f"darkq top  {self._title}", "bold", no_wrap=True, overflow="ellipsis")
        left.truncate(max(0, width - len(right) - 1), overflow="ellipsis", pad=True)
        return left.append(" ").append(right, "not bold dim")

    def _render_outage(self, outage: Outage) -> Text:
        since = time.strftime("%H:%M:%S", time.localtime(outage.away_since_ms / 1000))
        length_s = (outage.at_ms - outage.away_since_ms) / 1000
        words = (
            f"Redis has not answered since {since}, {format_duration(length_s)} ({outage.reason})"
        )
        words += "; the last reading:" if self._reading is not None else "; retrying"
        return Text(words, "bold red", no_wrap=True, overflow="ellipsis")


def print_plain(reading: Reading) -> None:
    """Print a whole reading on stdout, without history."""
    console = messages.stdout_console()
    with console.capture() as printed:
        console.print(
            Text(format_time(reading.at_ms), "bold"),
            *render_tables(reading, None, min(_PLAIN_CHARS, console.width), None),
            sep="\n",
        )
    for line in printed.get().splitlines():
        output.write_line(line.rstrip())
