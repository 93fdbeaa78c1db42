"""A `darkq` process that stops when the `darkq up` or `darkq demo` that has started it ends.

Its standard input is the read end of a pipe, the lifeline (`stack.processes`). The kernel closes
the write end when the parent dies, even by SIGKILL. This process then stops as on SIGTERM.

    python -m darkq_cli.child worker
"""

from __future__ import annotations

import os
import signal
import threading

from darkq_cli.main import main as run_command

_LIFELINE = 0


def main() -> None:
    """Run the command, and stop it at the end of the lifeline."""
    threading.Thread(target=_stop_after_parent, name="lifeline", daemon=True).start()
    run_command()


def _stop_after_parent() -> None:
    while os.read(_LIFELINE, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
