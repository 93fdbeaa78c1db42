"""The fault suite, each fault once and in its short form, without the slow ones.

`make faults` plays all of it.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys

import pytest

from faults import table
from faults.catalogue import CATALOGUE
from faults.file_batches import SLOWLY
from faults.suite import play

# Most of a fault is waiting, so two kinds are played side by side.
TOGETHER = [
    ("workers", "redis"),
    ("connections", "cancel"),
    ("readers", "upstream"),
    ("clocks", "enqueue", "backlog", "tools"),
    ("batch", "files", "limits"),
    ("cluster",),
    ("sentinel",),
    ("abuse",),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kinds", TOGETHER, ids="+".join)
async def test_every_promise_is_kept(kinds: tuple[str, ...]) -> None:
    seed = secrets.randbits(32)
    chosen = [[fault for fault in CATALOGUE[kind] if not fault.slow] for kind in kinds]
    plays = [play(faults, seed=seed, full=False) for faults in chosen]
    rows = [row for rows in await asyncio.gather(*plays) for row in rows]
    lines = [f"seed {seed}", table.HEAD, *map(table.line, rows)]
    assert all(row.kept for row in rows), "\n".join(lines)


def test_every_kind_of_fault_is_played() -> None:
    assert sorted(kind for kinds in TOGETHER for kind in kinds) == sorted(CATALOGUE)


def test_program_of_slow_workers_runs() -> None:
    """Red if a name that it replaces has moved: most faults that use it are slow."""
    command = [sys.executable, "-c", SLOWLY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
