"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

SHORTEST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.05


@overload
async def wait_until(
    what: str, condition: Callable[[], Awaitable[T]], timeout_s: float = ...
) -> T: ...


@overload
async def wait_until(what: str, condition: Callable[[], T], timeout_s: float = ...) -> T: ...


async def wait_until(
    what: str, condition: Callable[[], T | Awaitable[T]], timeout_s: float = 30.0
) -> T:
    """Ask again and again until the condition is true, and return what it said.

    The pauses grow with the time waited, because each question costs the other tests CPU time.
    Fails naming what was waited for.
    """
    clock = asyncio.get_running_loop().time
    began_s = clock()
    while True:
        answer = condition()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        waited_s = clock() - began_s
        assert waited_s < timeout_s, f"waited {timeout_s:g} s for {what}"
        await asyncio.sleep(min(max(SHORTEST_PAUSE_S, waited_s / 10), LONGEST_PAUSE_S))
