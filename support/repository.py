"""The files of this repository: what git knows, so that a stray file changes no test."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that git tracks. Without a git checkout, every file but the hidden ones."""
    if not (ROOT / ".git").exists():
        names = (path.relative_to(ROOT) for path in sorted(ROOT.rglob("*")))
        kept = (name for name in names if not any(part.startswith(".") for part in name.parts))
        return tuple(ROOT / name for name in kept if (ROOT / name).is_file())
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    files = (ROOT / name for name in listed.split("\0") if name)
    return tuple(sorted(file for file in files if file.is_file()))


def files_of(folder: Path, pattern: str = "*") -> list[Path]:
    """The repository's files below a folder whose names match a pattern."""
    start = f"{folder}/"
    return [
        file for file in repository_files() if str(file).startswith(start) and file.match(pattern)
    ]
