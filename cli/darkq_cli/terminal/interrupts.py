"""Ctrl-C, SIGTERM and a terminal that is closed: to this command they are one thing.

SIGINT becomes a cancellation, which lets everything close. The other two are passed on as
SIGINT; which one it was decides the exit code in the end.
"""

from __future__ import annotations

import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

CTRL_C_EXIT_CODE: Final = 128 + signal.SIGINT

T = TypeVar("T")

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP)
_first: signal.Signals | None = None


def install() -> None:
    """Take over the signals. SIGHUP stays ignored where nohup wants that."""
    # A shell script's `darkq … &` starts with SIGINT ignored, which would drop all three.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _PASSED_ON:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _as_ctrl_c)


def _as_ctrl_c(number: int, _: FrameType | None) -> None:
    _note(number)
    signal.raise_signal(signal.SIGINT)


def _note(number: int) -> None:
    """Remember which signal decides the exit code: the first that is no SIGINT."""
    global _first  # noqa: PLW0603  a process has one set of signals
    if number != signal.SIGINT:
        _first = _first or signal.Signals(number)


def exit_code() -> int:
    """Return what a command that was interrupted exits with."""
    return CTRL_C_EXIT_CODE if _first is None else 128 + _first


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, except that no Ctrl-C gets lost. Raises `KeyboardInterrupt` after one.

    asyncio's own handler may cancel the task in the middle of a step. A timeout that the rest of
    the step enters then takes that cancellation for its own, and the task goes on. This one
    cancels between two steps.
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


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let an interruption wait for the end of the block; a second one comes through at once.

    Raises `KeyboardInterrupt` at the end if there was one.
    """
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        _note(number)
        if asked:
            signal.default_int_handler(number, frame)
        asked.append(number)

    numbers = (signal.SIGINT, *_PASSED_ON)
    previous = {number: signal.getsignal(number) for number in numbers}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt
