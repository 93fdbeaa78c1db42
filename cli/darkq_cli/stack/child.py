"""A `darkq` process that `up` and `demo` start, and that ends when they do, however they end.

Its standard input is a lifeline: a pipe that nobody writes to. The pipe ends with the last
process that holds its other side, be that one killed, and then this process stops as it does
on SIGTERM.

    python -m darkq_cli.stack.child worker
"""

from __future__ import annotations

import os
import signal
import threading
from typing import NamedTuple, Self

_READ_END = 0


class Lifeline(NamedTuple):
    """Both sides of a lifeline. Neither is inherited by a child unless it is given to it."""

    end: int
    hold: int

    @classmethod
    def make(cls) -> Self:
        """Make the pipe. Raises `OSError` when there are too many open files."""
        return cls(*os.pipe())

    def close(self) -> None:
        """Let go of both sides."""
        os.close(self.end)
        os.close(self.hold)


def _stop_with_lifeline() -> None:
    while os.read(_READ_END, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the command, tied to the lifeline."""
    from darkq_cli.main import main as command

    threading.Thread(target=_stop_with_lifeline, name="lifeline", daemon=True).start()
    command()


if __name__ == "__main__":
    main()
