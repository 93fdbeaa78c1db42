"""The command in a terminal of its own, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
from pathlib import Path
from typing import Any

from support import forked
from support.command import EXIT_TIMEOUT_S, Darkq
from support.forked import COMMAND, Call
from support.waiting import wait_until


class Terminal:
    """A terminal with one command in it, as a person sees it."""

    def __init__(self, darkq: Darkq, *arguments: str, **environment: str) -> None:
        self.screen = b""
        self._side, theirs = pty.openpty()
        self.resize(80, 24)
        os.set_blocking(self._side, False)
        names = {**darkq.environment, **environment}
        # Ctrl-C reaches a process only from the terminal that controls its session.
        call = Call(COMMAND, arguments, names, str(darkq.home), own_terminal=True)
        self._process = forked.start(call, theirs, theirs, theirs)
        os.close(theirs)

    def shows(self, words: str) -> bool:
        """Take in what has been written, and tell whether the words are among it."""
        try:
            while piece := os.read(self._side, 65536):
                self.screen += piece
        except (BlockingIOError, OSError):  # nothing new, or everything
            pass
        return words in self.screen.decode(errors="replace")

    def resize(self, columns: int, lines: int) -> None:
        """Make it so large; the command hears of it."""
        fcntl.ioctl(self._side, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def manners(self) -> list[Any]:
        """How it treats what is typed and written."""
        return termios.tcgetattr(self._side)

    @property
    def is_stopped(self) -> bool:
        """Whether the command is stopped, as by Ctrl-Z."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return "\nState:\tT" in status

    def send(self, number: signal.Signals) -> None:
        """Send the command a signal."""
        self._process.send_signal(number)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._side, keys.encode())

    async def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and all that was written, with plain line ends."""

        def ended() -> bool:
            self.shows("")
            return self._process.poll() is not None

        await wait_until("the command's end", ended, EXIT_TIMEOUT_S)
        self.shows("")
        return self._process.wait(), self.screen.decode().replace("\r\n", "\n")

    def close(self) -> None:
        """End the command and the terminal."""
        self._process.kill()
        self._process.wait()
        os.close(self._side)
