"""Messages for people, on stderr. With `--json` each message is one JSON object."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

as_json = False
"""Set by the option `--json`."""

_WIDE = 1000
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def replace_controls(text: str) -> str:
    """Replace control characters other than tab and line feed: a terminal would obey them."""
    return _CONTROLS.sub("\ufffd", text)


def use_json(wanted: bool) -> bool:
    """Store the option `--json`, as its callback."""
    global as_json  # noqa: PLW0603  a process has one stderr
    as_json = wanted
    return wanted


def say(text: str, *, style: str = "", **facts: object) -> None:
    """Write a message. With `--json`, `facts` become fields of the object beside the text.

    A terminal gets lines that end between words. Indented lines are commands or output to copy, so
    they stay whole.
    """
    if as_json:
        write_json({"note": text, **facts})
        return
    text = replace_controls(text)
    if console().is_terminal:
        text = "\n".join(map(_wrap, text.split("\n")))
    console().print(text, style=style)


def _wrap(line: str) -> str:
    width = console().width
    if len(line) <= width or line.startswith(" "):
        return line
    return "\n".join(wrap(line, max(20, width), break_long_words=False, break_on_hyphens=False))


def leave_line() -> None:
    """Start a new line after the `^C` that a terminal has shown."""
    if not as_json and console().is_terminal:
        console().print()


def say_how_to_resume(text: str, **commands: str) -> None:
    """After Ctrl-C, write a text and the command `resume`; and `cancel`, if there is one."""
    leave_line()
    text = f"{text}:\n  {commands['resume']}"
    if cancel := commands.get("cancel"):
        text += f"\nTo stop it:\n  {cancel}"
    say(text, **commands)


class DimText:
    """Writes text to stderr piece by piece, dimmed. None means: only on a terminal."""

    def __init__(self, *, shown: bool | None) -> None:
        self._shown = console().is_terminal if shown is None else shown
        self._open_line = False

    def write(self, text: str) -> None:
        """Write a piece, if it is to be shown."""
        if self._shown and text:
            console().out(replace_controls(text), style="dim", end="", highlight=False)
            self._open_line = not text.endswith("\n")

    def end_line(self) -> None:
        """End the line if it is open."""
        if self._open_line:
            console().out()
            self._open_line = False


def write_json(fields: dict[str, Any]) -> None:
    """Write one JSON object to stderr."""
    import msgspec

    sys.stderr.write(msgspec.json.encode(fields).decode() + "\n")
    sys.stderr.flush()


@cache
def console() -> Console:
    """Return the console of stderr. Colours need a terminal, and no NO_COLOR."""
    return _console(stderr=True)


@cache
def stdout_console() -> Console:
    """Return the console of stdout, for tables."""
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    # rich's own support of NO_COLOR keeps the escape sequences of bold and dim.
    plain = bool(os.environ.get("NO_COLOR"))
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        color_system=None if plain else "auto",
        # In a pipe each row stays on one line, unless COLUMNS, which rich reads, sets a width.
        width=None if is_terminal or os.environ.get("COLUMNS", "").isdecimal() else _WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )
