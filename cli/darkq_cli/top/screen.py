"""Takes over the whole screen of a terminal, and restores it.

Typed characters are not echoed; `q` quits. Ctrl-Z restores the terminal while the process is
stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from rich.live import Live

if TYPE_CHECKING:
    from rich.console import Console


class _Keyboard:
    """Reads standard input key by key without echo, if it is a terminal."""

    def __init__(self) -> None:
        self._number = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._attributes = termios.tcgetattr(self._number) if self._number is not None else []

    def start(self, quit_: asyncio.Event) -> None:
        """Start reading; `q` sets the event."""
        if (number := self._number) is None:
            return

        def read_keys() -> None:
            if b"q" in os.read(number, 64).lower():
                quit_.set()

        tty.setcbreak(number, termios.TCSADRAIN)
        asyncio.get_running_loop().add_reader(number, read_keys)

    def stop(self) -> None:
        """Restore the terminal's attributes, if it still exists."""
        if self._number is not None:
            asyncio.get_running_loop().remove_reader(self._number)
            with suppress(termios.error):
                termios.tcsetattr(self._number, termios.TCSADRAIN, self._attributes)


@contextmanager
def take_over(console: Console, quit_: asyncio.Event) -> Iterator[Live]:
    """Take over the terminal during the block, inside a running event loop. `q` sets `quit_`."""
    keyboard, loop = _Keyboard(), asyncio.get_running_loop()
    screen = Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )

    def restore() -> None:
        with suppress(OSError):  # the terminal may not exist any more
            screen.stop()

    def pause() -> None:
        restore()
        keyboard.stop()
        os.kill(os.getpid(), signal.SIGSTOP)  # the process stops here until SIGCONT
        keyboard.start(quit_)
        screen.start(refresh=True)

    with ExitStack() as stack:
        stack.callback(keyboard.stop)
        keyboard.start(quit_)
        stack.callback(restore)
        screen.start(refresh=True)
        for number, act in ((signal.SIGWINCH, screen.refresh), (signal.SIGTSTP, pause)):
            loop.add_signal_handler(number, act)
            stack.callback(loop.remove_signal_handler, number)
        yield screen
