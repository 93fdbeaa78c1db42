"""What the command says to people, on stderr; with `--json` each remark is a JSON object."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

as_json = False
"""Set by the option `--json`."""

_WIDE = 1000
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Return a text that cannot command the terminal: of control characters only line ends stay."""
    return _CONTROLS.sub("\ufffd", text)


def use_json(wanted: bool) -> bool:
    """Take the option `--json`."""
    global as_json  # noqa: PLW0603  a process has one stderr
    as_json = wanted
    return wanted


def say(text: str, *, style: str = "", **facts: object) -> None:
    """Make a remark. `facts` are for programs: they join the text in the JSON object."""
    if as_json:
        write_json({"note": text, **facts})
    else:
        console().print(harmless(text), style=style)


def leave_line() -> None:
    """Leave the line on which a terminal has shown `^C`."""
    if not as_json and console().is_terminal:
        console().print()


def write_json(fields: dict[str, Any]) -> None:
    """Write one JSON object."""
    import msgspec

    sys.stderr.write(msgspec.json.encode(fields).decode() + "\n")
    sys.stderr.flush()


@cache
def console() -> Console:
    """Return the console of stderr: colours on a terminal only, and none with NO_COLOR."""
    return _console(stderr=True)


@cache
def stdout_console() -> Console:
    """Return the console of stdout, for tables."""
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    # Not rich's own NO_COLOR: that keeps bold and dim, and their escape sequences.
    plain = bool(os.environ.get("NO_COLOR"))
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        color_system=None if plain else "auto",
        width=None if is_terminal else _WIDE,  # a table in a pipe is for grep
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )
