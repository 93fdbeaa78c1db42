"""Reads the state of the system until Ctrl-C, and shows each reading.

A terminal shows it on its whole screen. A pipe or a file gets plain tables, one after the other,
and with `--json` one object for each reading. An outage of Redis is shown, and does not end it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, TypeAlias

from rich.text import Text

from darkq import Client, RedisUnavailable, Settings
from darkq_cli.terminal import messages, output
from darkq_cli.terminal.redis import RedisTarget, shorten_timeouts
from darkq_cli.terminal.units import format_duration, format_time
from darkq_cli.top.reading import Outage, Reading, Trend, read
from darkq_cli.top.tables import History, render_tables

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_PLAIN_CHARS = 200
TIMEOUT_S = 3.0
"""How long Redis may take to answer before that counts as an outage."""

Show: TypeAlias = Callable[[Reading | Outage], None]


async def read_once(settings: Settings) -> Reading:
    """Read once. Raises `RedisUnavailable`."""
    async with Client(settings=shorten_timeouts(settings, TIMEOUT_S)) as client:
        return await _read(client)


async def _read(client: Client) -> Reading:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await read(client)
    except TimeoutError:
        raise RedisUnavailable(f"no answer within {TIMEOUT_S:g} s") from None


async def watch(redis: RedisTarget, interval_s: float) -> None:
    """Read and show until Ctrl-C, or `q` on a terminal."""
    console = messages.stdout_console()
    quit_ = asyncio.Event()
    async with Client(settings=shorten_timeouts(redis.settings, TIMEOUT_S)) as client:
        if messages.as_json:
            await _follow(client, interval_s, quit_, output.write_json)
        elif not console.is_terminal or console.is_dumb_terminal:
            await _follow(client, interval_s, quit_, _PlainText().show)
        else:
            from darkq_cli.top.screen import take_over

            panel = Panel(redis.name)
            with take_over(console, quit_) as screen:

                def show(latest: Reading | Outage) -> None:
                    panel.update(latest)
                    screen.update(panel, refresh=True)

                await _follow(client, interval_s, quit_, show)


async def _follow(client: Client, interval_s: float, quit_: asyncio.Event, show: Show) -> None:
    async with aclosing(_read_repeatedly(client, interval_s, quit_)) as readings:
        async for latest in readings:
            show(latest)


async def _read_repeatedly(
    client: Client, interval_s: float, quit_: asyncio.Event
) -> AsyncGenerator[Reading | Outage, None]:
    """Read repeatedly until `quit_` is set. Yields an `Outage` while Redis does not answer."""
    trend = Trend()
    away_since_ms = 0
    while not quit_.is_set():
        try:
            yield trend.add(await _read(client))
            away_since_ms = 0
        except RedisUnavailable as error:
            trend.reset()
            now_ms = int(time.time() * 1000)
            away_since_ms = away_since_ms or now_ms
            yield Outage(at_ms=now_ms, away_since_ms=away_since_ms, reason=error.reason)
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_s):
                await quit_.wait()


class _PlainText:
    """Prints readings one after the other."""

    def __init__(self) -> None:
        self._has_outage = False
        self._first = True

    def show(self, latest: Reading | Outage) -> None:
        """Print a reading, or the beginning of an outage."""
        if isinstance(latest, Outage):
            if not self._has_outage:
                messages.say(f"Redis does not answer ({latest.reason}); retrying", style="yellow")
        else:
            if not self._first:
                output.write_line("")
            self._first = False
            print_plain(latest)
        self._has_outage = isinstance(latest, Outage)


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
        height = (options.height or options.size.height) - 1
        if self._outage is not None:
            yield self._render_outage(self._outage)
            height -= 1
        if self._reading is not None:
            yield from render_tables(self._reading, self._history, options.max_width, height)

    def _render_head(self, width: int) -> Text:
        right = f"{time.strftime('%H:%M:%S')}  q quits"
        left = Text(f"darkq top  {self._title}", "bold", no_wrap=True, overflow="ellipsis")
        left.truncate(max(0, width - len(right) - 1), overflow="ellipsis", pad=True)
        return left.append(" ").append(right, "not bold dim")

    def _render_outage(self, outage: Outage) -> Text:
        since = time.strftime("%H:%M:%S", time.localtime(outage.away_since_ms / 1000))
        length = format_duration((outage.at_ms - outage.away_since_ms) / 1000)
        words = f"Redis has not answered since {since}, {length} ({outage.reason})"
        words += "; the last reading:" if self._reading is not None else "; retrying"
        return Text(words, "bold red", no_wrap=True, overflow="ellipsis")
