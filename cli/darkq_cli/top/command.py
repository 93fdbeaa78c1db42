"""Reads how everything stands until Ctrl-C, whatever Redis does, and shows each reading.

On a terminal all of its screen is taken; into a pipe or a file go plain tables, one below the
other, and with `--json` one object for each reading.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TypeAlias

from darkq import Client, RedisUnavailable, Settings
from darkq_cli.terminal import interrupts, messages, output
from darkq_cli.terminal.redis import Reached, redis_of
from darkq_cli.top.reading import Away, Reading, Trend, read

TIMEOUT_S = 3.0
"""Redis has so long to answer before it counts as away."""

Look: TypeAlias = Reading | Away
Show: TypeAlias = Callable[[Look], None]


def top(*, interval_s: float, once: bool, as_json: bool) -> None:
    """Show how everything stands, once or until Ctrl-C or `q`.

    Raises `RedisUnavailable` where only one reading is wanted.
    """
    with redis_of(Settings.load()) as redis:
        if once:
            reading = interrupts.run(_once(_impatient(redis.settings)))
            (output.write_json if as_json else _print)(reading)
        else:
            interrupts.run(_watch(redis, interval_s, as_json=as_json))


def _impatient(settings: Settings) -> Settings:
    """Whoever looks wants to know at once that there is nothing to see."""
    timeout_s = min(TIMEOUT_S, settings.redis_timeout_s)
    return settings.model_copy(update={"redis_patience_s": 0.0, "redis_timeout_s": timeout_s})


async def _once(settings: Settings) -> Reading:
    async with Client(settings=settings) as client:
        return await _read(client)


async def _read(client: Client) -> Reading:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await read(client)
    except TimeoutError:
        raise RedisUnavailable(f"no answer within {TIMEOUT_S:g} s") from None


async def _watch(redis: Reached, interval_s: float, *, as_json: bool) -> None:
    console = messages.stdout_console()
    left = asyncio.Event()
    async with Client(settings=_impatient(redis.settings)) as client:
        if as_json:
            await _follow(client, interval_s, left, output.write_json)
        elif not console.is_terminal or console.is_dumb_terminal:
            await _follow(client, interval_s, left, _Lines().show)
        else:
            from darkq_cli.top.panel import Panel
            from darkq_cli.top.screen import taken_over

            panel = Panel(redis.name)
            with taken_over(console, left) as screen:

                def show(look: Look) -> None:
                    panel.take(look)
                    screen.show(panel)

                await _follow(client, interval_s, left, show)


async def _follow(client: Client, interval_s: float, left: asyncio.Event, show: Show) -> None:
    async with aclosing(_looks(client, interval_s, left)) as looks:
        async for look in looks:
            show(look)


async def _looks(
    client: Client, interval_s: float, left: asyncio.Event
) -> AsyncGenerator[Look, None]:
    """Read again and again until somebody leaves. That Redis is away is worth a look too."""
    trend = Trend()
    away_since_ms = 0
    while not left.is_set():
        try:
            yield trend.add(await _read(client))
            away_since_ms = 0
        except RedisUnavailable as error:
            trend.interrupt()
            now_ms = int(time.time() * 1000)
            away_since_ms = away_since_ms or now_ms
            yield Away(at_ms=now_ms, away_since_ms=away_since_ms, reason=error.reason)
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_s):
                await left.wait()


class _Lines:
    """Readings below each other, where nothing can be overwritten."""

    def __init__(self) -> None:
        self._away = False
        self._first = True

    def show(self, look: Look) -> None:
        """Print a reading; that Redis is away is said once."""
        if isinstance(look, Away):
            if not self._away:
                messages.say(f"Redis does not answer ({look.reason}); trying again", style="yellow")
        else:
            if not self._first:
                output.write_line("")
            self._first = False
            _print(look)
        self._away = isinstance(look, Away)


def _print(reading: Reading) -> None:
    from darkq_cli.top.panel import print_plain

    print_plain(reading)
