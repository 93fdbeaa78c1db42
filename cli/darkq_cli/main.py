"""Where the `darkq` command begins and ends: what went wrong becomes a line and an exit code.

0  done        1  it failed; the reason is on stderr        2  wrong usage
130  Ctrl-C (143 after SIGTERM, 129 when the terminal was closed)

Nothing is imported here that takes long: `darkq --help` is to be quick.
"""

from __future__ import annotations

import sys

from darkq_cli.terminal import interrupts


def main() -> None:
    """Run the command that the process's arguments ask for, and exit."""
    interrupts.install()
    try:
        from darkq_cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(interrupts.exit_code())
    except SystemExit as end:
        if end.code == interrupts.CTRL_C_EXIT_CODE:
            sys.exit(interrupts.exit_code())
        raise
    except Exception as error:
        from darkq_cli.terminal.problems import problem_of

        problem = problem_of(error)
        if problem is None:  # a bug, and its traceback says where
            raise
        problem.report()
        sys.exit(problem.exit_code)
