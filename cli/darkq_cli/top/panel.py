"""What `darkq top` shows: a reading on the screen, or printed as plain text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.text import Text

from darkq_cli.terminal import messages, output
from darkq_cli.terminal.durations import span
from darkq_cli.top.history import History
from darkq_cli.top.reading import Away, Reading
from darkq_cli.top.tables import tables

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_PLAIN_CHARS = 200


class Panel:
    """What is on the screen: the last reading if there is one, and that Redis is away if it is."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._reading: Reading | None = None
        self._away: Away | None = None
        self._history = History()

    def take(self, look: Reading | Away) -> None:
        """Be of this from now on."""
        if isinstance(look, Away):
            self._away = look
        else:
            self._reading, self._away = look, None
            self._history.add(look)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head(options.max_width)
        lines = 1
        if self._away is not None:
            yield self._outage(self._away)
            lines += 1
        if self._reading is not None:
            height = (options.height or options.size.height) - lines
            yield from tables(self._reading, self._history, options.max_width, height)

    def _head(self, width: int) -> Text:
        right = f"{time.strftime('%H:%M:%S')}  q quits"
        left = Text(f"darkq top  {self._title}", "bold", no_wrap=True, overflow="ellipsis")
        left.truncate(max(0, width - len(right) - 1), overflow="ellipsis", pad=True)
        return left.append(" ").append(right, "not bold dim")

    def _outage(self, away: Away) -> Text:
        since = time.strftime("%H:%M:%S", time.localtime(away.away_since_ms / 1000))
        gone_s = (away.at_ms - away.away_since_ms) / 1000
        words = f"Redis is away since {since}, {span(gone_s)} ({away.reason})"
        words += "; below, what was" if self._reading is not None else "; trying again"
        return Text(words, "bold red", no_wrap=True, overflow="ellipsis")


def print_plain(reading: Reading) -> None:
    """Print a reading on stdout, whole and without what was before it."""
    console = messages.stdout_console()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(reading.at_ms / 1000))
    with console.capture() as printed:
        console.print(Text(stamp, "bold"), *tables(reading, None, _PLAIN_CHARS, None), sep="\n")
    for line in printed.get().splitlines():
        output.write_line(line.rstrip())
