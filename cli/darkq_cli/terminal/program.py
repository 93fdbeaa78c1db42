"""How a user types this command in the shell that has started it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path


@cache
def command() -> str:
    """Return `darkq` if it is on PATH, else a path to it that can be copied and pasted."""
    if shutil.which("darkq"):
        return "darkq"
    beside = Path(sys.executable).with_name("darkq")
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m darkq_cli"
    return shlex.quote(shorten_path(str(beside)))


def shorten_path(path: str) -> str:
    """Return a path relative to the working directory, if it is below that."""
    try:
        near = os.path.relpath(path)
    except FileNotFoundError:  # the working directory was removed
        return path
    return path if near.startswith("..") else near
