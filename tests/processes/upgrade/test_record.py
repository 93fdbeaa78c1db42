"""The command of docs/upgrade.md that records a version before its release."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from processes.upgrade import photograph

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/data"
DOCUMENT = ROOT / "docs/upgrade.md"


def kinds(keys: bytes) -> set[str]:
    """What kinds of keys a recording has: their names without what differs each time."""
    names = {each.key for each in photograph.decode(keys)}
    return {re.sub(r"[0-9a-f]{16,}|[^:]+:\d+:[0-9a-f]{8}", "#", name) for name in names}


async def test_the_documented_command_records_the_present_version(tmp_path: Path) -> None:
    """Red without `redis_timeout_s`, or when it records fewer kinds of keys than before."""
    documented = re.search(
        r"^\$ PYTHONPATH=(\S+) python -m (\S+) ", DOCUMENT.read_text(), re.MULTILINE
    )
    assert documented is not None
    path, module = documented.groups()
    await run("-m", module, "present", str(tmp_path), path=path)
    recorded = kinds((tmp_path / "present/keys.jsonl").read_bytes())
    for earlier in DATA.glob("*/keys.jsonl"):
        assert kinds(earlier.read_bytes()) <= recorded, earlier
    sources = tmp_path / "present/code.zip"
    program = "import darkq.redis.scripts, darkq_worker.main; print(darkq_worker.main.__file__)"
    assert (await run("-c", program, path=str(sources))).startswith(f"{sources}/")


async def run(*arguments: str, path: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
