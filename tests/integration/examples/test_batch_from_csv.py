"""The script of `examples/` for a CSV of prompts, as a process, with a worker and a DarkAI."""

from __future__ import annotations

import asyncio
import csv
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from darkq import Client, Settings
from darkq_local.local_darkai import LocalDarkAI
from support.waiting import wait_until

SCRIPT = Path(__file__).parents[3] / "examples" / "batch_from_csv.py"
# A killed run's lease is waited for.
SHORT_LEASE = (
    "import sys, runpy, darkq.batches.lease; darkq.batches.lease.LEASE_S = 0.3\n"
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)
ROWS = 60


@pytest.fixture
async def darkai(
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> LocalDarkAI:
    """A DarkAI, and a worker that asks it ten things at once: six rounds for all rows."""
    darkai = await start_darkai(chunks=3, chunks_per_s=5)
    start_worker(
        make_settings(darkai_url=darkai.url, worker_jobs=10, worker_reserved_interactive=0)
    )
    return darkai


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CSV with what CSVs have: commas, quotes and line ends in a field, a blank line."""
    lines = [f'{n},"Why, ""{n}""?\nAnswer."' for n in range(ROWS)]
    lines.insert(ROWS // 2, "")
    (tmp_path / "in.csv").write_text("\n".join(["number,prompt", *lines]))
    return tmp_path


@asynccontextmanager
async def running(folder: Path, settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    assert settings.redis_url is not None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SHORT_LEASE, str(SCRIPT), "in.csv", "out.csv"),
        env={**os.environ, "DARKQ_REDIS_URL": settings.redis_url.get_secret_value()},
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def done(process: asyncio.subprocess.Process) -> None:
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()


def answered(folder: Path) -> int:
    """How many answers the script has kept so far."""
    try:
        with closing(sqlite3.connect(f"file:{folder}/out.csv.sqlite?mode=ro", uri=True)) as kept:
            return int(kept.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:  # it has not begun
        return 0


async def has_kept(folder: Path, count: int) -> None:
    await wait_until("answers are kept", lambda: answered(folder) >= count, timeout_s=20)


def check(folder: Path) -> None:
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == [str(n) for n in range(ROWS)]
    assert all(row["prompt"] == f'Why, "{row["number"]}"?\nAnswer.' for row in rows)
    assert all(row["answer"] and not row["error"] for row in rows)
    assert sorted(path.name for path in folder.glob("out*")) == ["out.csv"]


async def test_every_row_has_its_answer(
    folder: Path, darkai: LocalDarkAI, make_settings: Callable[..., Settings]
) -> None:
    async with running(folder, make_settings()) as process:
        await done(process)
    check(folder)
    async with running(folder, make_settings()) as again:
        _, err = await asyncio.wait_for(again.communicate(), 30)
    assert again.returncode == 1
    assert b"is there already" in err


async def test_a_script_that_is_killed_goes_on_and_asks_nothing_twice(
    folder: Path, darkai: LocalDarkAI, client: Client, make_settings: Callable[..., Settings]
) -> None:
    for part in (1, ROWS // 4):
        async with running(folder, make_settings()) as process:
            await has_kept(folder, part)
            process.kill()
        assert not (folder / "out.csv").exists()
    async with running(folder, make_settings()) as process:
        await done(process)
    check(folder)
    assert darkai.requests_seen == ROWS


async def test_another_input_is_refused(
    folder: Path, darkai: LocalDarkAI, make_settings: Callable[..., Settings]
) -> None:
    async with running(folder, make_settings()) as process:
        await has_kept(folder, 1)
        process.kill()
    (folder / "in.csv").write_text("number,prompt\n0,Who?\n")
    async with running(folder, make_settings()) as process:
        _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"in.csv has changed" in err
    assert darkai.requests_seen <= ROWS


async def test_without_the_column_it_names_those_there_are_and_creates_no_batch(
    folder: Path, make_settings: Callable[..., Settings], client: Client
) -> None:
    (folder / "in.csv").write_text("number,question\n1,Why?\n")
    async with running(folder, make_settings()) as process:
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode() == "in.csv has no column prompt; it has: number, question\n"
    assert [batch async for batch in client.batches()] == []
