"""An environment per peer: they ask for versions of Redis's client that exclude each other."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

_HOME = Path(__file__).parents[2] / ".venv-peers"
_COMMON = ("aiohttp==3.14.5", "uvloop==0.23.0")

PACKAGES: dict[str, tuple[str, ...]] = {
    "saq": ("saq[hiredis]==0.26.4",),
    "taskiq": ("taskiq==0.13.0", "taskiq-redis==1.2.4", "hiredis==3.5.0"),
    "streaq": ("streaq==7.2.0", "redis==5.3.1"),
    "celery": ("celery[redis]==5.7.0", "hiredis==3.5.0"),
}


def python(peer: str) -> Path:
    """Return the interpreter of a peer's environment, which is made at its first use."""
    home = _HOME / peer
    interpreter, done = home / "bin" / "python", home / ".installed"
    packages = "\n".join((*PACKAGES[peer], *_COMMON))
    if not done.exists() or done.read_text() != packages:
        print(f"installing {peer} into {home.relative_to(_HOME.parent)}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        pip = [str(interpreter), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *packages.split()], check=True)
        done.write_text(packages)
    return interpreter
