"""Entry point of the `darkq` command: turns errors into messages and exit codes.

0  success        1  failure, with the reason on stderr        2  wrong usage
130  Ctrl-C       143  SIGTERM       129  SIGHUP (a closed terminal)

Slow imports are inside functions, so that `darkq --help` stays fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from darkq_cli.terminal import interrupts, output


def main() -> None:
    """Run the command in `sys.argv`, and exit."""
    _open_closed_streams()
    interrupts.install()
    try:
        _load_app()()
    except KeyboardInterrupt:
        sys.exit(interrupts.exit_code())
    except SystemExit as end:
        if end.code == interrupts.CTRL_C_EXIT_CODE:
            sys.exit(interrupts.exit_code())
        if output.reader_has_left:
            sys.exit(0)
        raise
    except Exception as error:
        from darkq_cli.terminal.problems import explain

        problem = explain(error)
        if problem is None:  # a bug: show its traceback
            raise
        problem.report()
        sys.exit(problem.exit_code)


def _load_app() -> Callable[[], None]:
    try:
        from darkq_cli.app import app
    except ModuleNotFoundError as error:  # installed with --no-deps
        hint = "To install what it needs: pip install darkq, or in a clone: pip install '.[all]'"
        sys.exit(f"darkq: {error.name} is not installed\n{hint}")
    return app


def _open_closed_streams() -> None:
    """Open the null device for streams that the shell has closed with `>&-`.

    A file or a socket could get their number, and Python's objects for them are None.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  until the process ends
