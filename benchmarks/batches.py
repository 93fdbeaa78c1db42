"""How fast is a file of prompts answered, and does its length take memory?

One-chunk prompts through `darkq batch run`, a process of its own, and one worker; beside a bare
script that calls the same upstream with 100 concurrent calls, and restarts from the beginning. The
time is that of the whole command, with its start and the check of its input. Memory is the highest
of ten samples a second. `long_batches` has files of up to 100,000 lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.answers import burst
from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import THE_REST, CpuShare, cpu_s, rss_bytes
from benchmarks.processes import Process, child, module
from benchmarks.systems import Darkq, darkq

LINES, MORE_LINES = 10_000, 50_000
MAX_GROWTH = 1.1
_LOOK_S = 0.1
_DARKQ = (sys.executable, "-c", "from darkq_cli.main import main; main()")


class Run(NamedTuple):
    """The costs of a file: lines a second, CPU per line, peak memory."""

    per_s: float
    cpu_ms: float
    rss_mb: float
    worker_cpu_ms: float = 0.0
    redis_mb: float = 0.0


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    few, many = int(LINES * scale), int(MORE_LINES * scale)
    ours, theirs = [], []
    async with darkq(url) as system:
        for _ in range(repetitions):
            ours.append(await batch(system, few))
            theirs.append(await bare(url, few))
        longer = await batch(system, many)
    script_ms = _figures(theirs, "cpu_ms")
    rows = [
        Row("lines of a file", "1/s", _figures(ours, "per_s"), _figures(theirs, "per_s")),
        Row("batch run's CPU per line", "ms", _figures(ours, "cpu_ms"), script_ms),
        Row("worker's CPU per line of a file", "ms", _figures(ours, "worker_cpu_ms"), script_ms),
    ]
    rows = [row._replace(baseline_name="bare script") for row in rows]
    return Answer([*rows, *growth(ours, few, longer, many)], [])


def growth(short: list[Run], few: int, long: Run, many: int) -> list[Row]:
    """Return the ratio of the memory of a long file to that of a short one."""
    return [
        Row(
            f"memory of {whose}, {many:,} lines",
            "MB",
            _figures([long], field),
            _figures(short, field),
            f"{few:,} lines",
            Target("≤", MAX_GROWTH),
        )
        for whose, field in (("batch run", "rss_mb"), ("Redis, batch", "redis_mb"))
    ]


async def batch(system: Darkq, lines: int) -> Run:
    """Answer a file through darkq and an empty Redis."""
    await system.redis.flushdb()
    with files(lines, burst(1)) as (source, answers):
        worker, begin_s = CpuShare(system.pid), time.monotonic()
        with batch_run(system, source, answers) as process:
            rss_mb = redis_mb = 0.0
            while not _has_ended(process):
                rss_mb = max(rss_mb, rss_bytes(process.pid) / 2**20)
                used = (await system.redis.info("memory"))["used_memory"]
                redis_mb = max(redis_mb, used / 2**20)
                await asyncio.sleep(_LOOK_S)
            took_s, used_s = time.monotonic() - begin_s, cpu_s(process.pid)
        _count(answers, lines)
    return Run(
        lines / took_s, used_s / lines * 1e3, rss_mb, worker.used_s() / lines * 1e3, redis_mb
    )


async def bare(url: str, lines: int) -> Run:
    """Answer a file by the script."""
    with files(lines, burst(1)) as (source, answers):
        begin_s = time.monotonic()
        with child(*module("bare_batch", url, source, answers)) as process:
            rss_mb = 0.0
            while not _has_ended(process):
                rss_mb = max(rss_mb, rss_bytes(process.pid) / 2**20)
                await asyncio.sleep(_LOOK_S)
            took_s, used_s = time.monotonic() - begin_s, cpu_s(process.pid)
        _count(answers, lines)
    return Run(lines / took_s, used_s / lines * 1e3, rss_mb)


@contextmanager
def batch_run(system: Darkq, source: Path, answers: Path) -> Iterator[Process]:
    """Run `darkq batch run`."""
    home = {"DARKQ_REDIS_URL": system.redis_url, "DARKQ_STATE_DIR": str(source.parent)}
    command = (*_DARKQ, "batch", "run", str(source), "-o", str(answers), "--json")
    with child(*command, role=THE_REST, environment=home) as process:
        yield process


@contextmanager
def files(lines: int, prompt: str) -> Iterator[tuple[Path, Path]]:
    """Make an input; yield its path, and one for its answers."""
    with tempfile.TemporaryDirectory(prefix="darkq-bench-") as directory:
        source = Path(directory, "in.jsonl")
        with source.open("w") as file:
            for n in range(lines):
                print(json.dumps({"custom_id": f"row-{n}", "prompt": prompt}), file=file)
        yield source, Path(directory, "out.jsonl")


def _count(answers: Path, lines: int) -> None:
    with answers.open("rb") as file:
        assert sum(1 for _ in file) == lines, "answers are missing"


def _has_ended(process: Process) -> bool:
    """Return whether a process has ended, without reaping it, so that its times can be read."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _figures(runs: list[Run], field: str) -> Figures:
    return Figures.of([getattr(run, field) for run in runs])
