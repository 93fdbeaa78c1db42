"""What the server was asked, as the server itself saw it."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Monitor

from darkq.redis import scripts
from support.by_hand import Hand

_NAMES = {script.sha(): script.name for script in scripts.ALL.values()}
_OURS = ("ECHO", "XLEN")  # what the tests themselves ask


class Call(NamedTuple):
    """One round trip's command: a script's name or a command, and what the script ran."""

    name: str
    inner: Counter[str]


class Watch:
    """Sees every command that a server runs."""

    def __init__(self, redis: Redis, monitor: Monitor) -> None:
        self._redis = redis
        self._monitor = monitor

    async def calls(self) -> list[Call]:
        """Return what was asked since the last time."""
        end = secrets.token_hex(16)
        await self._redis.echo(end)
        calls: list[Call] = []
        while True:
            seen = await self._monitor.next_command()
            words = seen["command"].split(" ")
            command = words[0].upper()
            if end in words:
                return calls
            if seen["client_type"] == "lua":
                calls[-1].inner[command] += 1
            elif command not in _OURS:
                name = _NAMES[words[1]] if command == "EVALSHA" else command
                calls.append(Call(name, Counter()))


def names(calls: Sequence[Call]) -> list[str]:
    return [call.name for call in calls]


@pytest.fixture
async def watch(redis: Redis) -> AsyncIterator[Watch]:
    """Watch a server that has all scripts already."""
    await scripts.load(redis)
    async with redis.monitor() as monitor:
        watch = Watch(redis, monitor)
        await watch.calls()
        yield watch


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)
