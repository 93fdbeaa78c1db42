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
    near = os.path.relpath(beside)
    return shlex.quote(str(beside) if near.startswith("..") else near)
