"""Reads the state of the system until Ctrl-C, and shows each reading.

A terminal shows it on its whole screen. A pipe or a file gets plain tables, one after the other,
and with `--json` one object for each reading. An outage of Redis is shown, and does not end it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TypeAlias

from darkq import Client, RedisUnavailable, Settings
from darkq_cli.terminal import messages, output
from darkq_cli.terminal.redis import RedisTarget
from darkq_cli.top.panel import Panel, print_plain
from darkq_cli.top.reading import Outage, Reading, Trend, read

TIMEOUT_S = 3.0
"""How long Redis may take to answer before that counts as an outage."""

Show: TypeAlias = Callable[[Reading | Outage], None]


def _shorten_timeouts(settings: Settings) -> Settings:
    """Return settings with short timeouts, so that an outage shows soon."""
    timeout_s = min(TIMEOUT_S, settings.redis_timeout_s)
    return settings.model_copy(update={"redis_patience_s": 0.0, "redis_timeout_s": timeout_s})


async def read_once(settings: Settings) -> Reading:
    """Read once. Raises `RedisUnavailable`."""
    async with Client(settings=_shorten_timeouts(settings)) as client:
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
    async with Client(settings=_shorten_timeouts(redis.settings)) as client:
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
                    screen.show(panel)

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
