"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


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

    Fails naming what was waited for.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        answer = condition()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        assert asyncio.get_running_loop().time() < deadline, f"waited {timeout_s:g} s for {what}"
        await asyncio.sleep(0.005)
