"""The terminal while something is shown on all of it: taken over, and given back as it was.

What is typed is not echoed; `q` ends. Ctrl-Z gives the terminal back for as long as the process
is stopped.
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
    from rich.console import Console, RenderableType


class Screen:
    """What is shown. Make it with `taken_over`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = self._new_live("")

    def show(self, what: RenderableType) -> None:
        """Show this from now on."""
        self._live.update(what, refresh=True)

    def redraw(self) -> None:
        """Show the same again: the size may have changed."""
        self._live.refresh()

    def start(self) -> None:
        """Take the terminal's screen; what was there comes back with `stop`."""
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Give it back, if it is still there."""
        shown, live = self._live.get_renderable(), self._live
        self._live = self._new_live(shown)
        with suppress(OSError):
            live.stop()

    def _new_live(self, shown: RenderableType) -> Live:
        return Live(
            shown,
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )


class _Keyboard:
    """Standard input, where it is a terminal: heard key by key, without an echo."""

    def __init__(self) -> None:
        self._number = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._was = termios.tcgetattr(self._number) if self._number is not None else []

    def start(self, left: asyncio.Event) -> None:
        """Hear from now on, and set the event at `q`."""
        if (number := self._number) is None:
            return

        def hear() -> None:
            if b"q" in os.read(number, 64).lower():
                left.set()

        tty.setcbreak(number, termios.TCSADRAIN)
        asyncio.get_running_loop().add_reader(number, hear)

    def stop(self) -> None:
        """Leave it as it was, if it is still there."""
        if self._number is not None:
            asyncio.get_running_loop().remove_reader(self._number)
            with suppress(termios.error):
                termios.tcsetattr(self._number, termios.TCSADRAIN, self._was)


@contextmanager
def taken_over(console: Console, left: asyncio.Event) -> Iterator[Screen]:
    """Have the terminal for the length of the block, inside a running loop.

    `left` is set when somebody presses `q`.
    """
    screen, keyboard = Screen(console), _Keyboard()
    loop = asyncio.get_running_loop()

    def pause() -> None:
        screen.stop()
        keyboard.stop()
        os.kill(os.getpid(), signal.SIGSTOP)  # here it stands until SIGCONT
        keyboard.start(left)
        screen.start()

    with ExitStack() as stack:
        stack.callback(keyboard.stop)
        keyboard.start(left)
        stack.callback(screen.stop)
        screen.start()
        for number, act in ((signal.SIGWINCH, screen.redraw), (signal.SIGTSTP, pause)):
            loop.add_signal_handler(number, act)
            stack.callback(loop.remove_signal_handler, number)
        yield screen
