"""Entry point of the `darkq` command: turns errors into messages and exit codes.

0  success        1  failure, with the reason on stderr        2  wrong usage
130  Ctrl-C       143  SIGTERM       129  SIGHUP (a closed terminal)

Slow imports are inside functions, so that `darkq --help` stays fast.
"""

from __future__ import annotations

import sys

from darkq_cli.terminal import interrupts


def main() -> None:
    """Run the command in `sys.argv`, and exit."""
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
        from darkq_cli.terminal.problems import explain

        problem = explain(error)
        if problem is None:  # a bug: show its traceback
            raise
        problem.report()
        sys.exit(problem.exit_code)
