"""Ctrl-C, SIGTERM and SIGHUP (a closed terminal) all end a command in the same way.

SIGINT cancels the main task, so that resources are closed. The handlers of the other two signals
raise SIGINT, and remember the signal for the exit code.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

CTRL_C_EXIT_CODE: Final = 128 + signal.SIGINT

T = TypeVar("T")

_FORWARDED = (signal.SIGTERM, signal.SIGHUP)
_first: signal.Signals | None = None


def install() -> None:
    """Install the handlers. A signal that is ignored (SIGHUP under nohup) stays ignored."""
    # A shell script starts `darkq … &` with SIGINT ignored; that would disable all three.
    # So SIGINT is always handled.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _FORWARDED:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise_sigint)


def _raise_sigint(number: int, _: FrameType | None) -> None:
    _remember(number)
    signal.raise_signal(signal.SIGINT)


def _remember(number: int) -> None:
    """Remember the first signal other than SIGINT: it decides the exit code."""
    global _first  # noqa: PLW0603  a process has one set of signals
    if number != signal.SIGINT:
        _first = _first or signal.Signals(number)


def exit_code() -> int:
    """Return the exit code of an interrupted command."""
    return CTRL_C_EXIT_CODE if _first is None else 128 + _first


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run as `asyncio.run` does, without losing a Ctrl-C. Raises `KeyboardInterrupt` after one.

    asyncio's own handler may cancel the task in the middle of a step. An `asyncio.timeout` that
    the same step enters later takes that cancellation for its own, so the task continues. This
    handler runs in the event loop, so it cancels between two steps.
    """
    import asyncio

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine runs in a task
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
        return await main

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@asynccontextmanager
async def run_beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run work beside the block, and cancel it at the end of the block."""
    import asyncio

    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """Delay a signal until the end of the block. A second signal interrupts it at once.

    Raises `KeyboardInterrupt` at the end after a signal.
    """
    received: list[int] = []

    def delay(number: int, frame: FrameType | None) -> None:
        _remember(number)
        if received:
            signal.default_int_handler(number, frame)
        received.append(number)

    numbers = (signal.SIGINT, *_FORWARDED)
    previous = {number: signal.getsignal(number) for number in numbers}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, delay)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
