"""A virtual environment per peer: their versions of the Redis client conflict.

Each is installed from `requirements-NAME.txt`, which has all pins and is made by `make pins`.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PEERS = ("saq", "taskiq", "streaq", "celery")
_HOME = Path(__file__).parents[2] / ".venv-peers"
_INSTALL_DEADLINE_S = 600.0


def pin_file(peer: str) -> Path:
    return Path(__file__).parent / f"requirements-{peer}.txt"


def python(peer: str) -> Path:
    """Return the interpreter of a peer's environment, which is made at its first use."""
    home = _HOME / peer
    interpreter, done, pins = home / "bin" / "python", home / ".installed", pin_file(peer)
    if not done.exists() or done.read_text() != pins.read_text():
        print(f"installing {peer} into {home.relative_to(_HOME.parent)}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        pip = [str(interpreter), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        install = [*pip, "install", "--no-deps", "--requirement", str(pins)]
        subprocess.run(install, check=True, timeout=_INSTALL_DEADLINE_S)
        done.write_text(pins.read_text())
    return interpreter
