"""Answer a CSV of prompts. If it is killed at any moment, run it again to continue.

    python batch_from_csv.py questions.csv answers.csv

The prompts are in a column `prompt`. When all are answered, `answers.csv` appears at once: the rows
as they were, in their order, with `answer` and `error` beside. Until then `answers.csv.sqlite` says
which batch it is, and keeps what has come.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from darkq import BatchTaken, Client


async def main(source: Path, target: Path) -> None:
    state = target.with_name(f"{target.name}.sqlite")
    with closing(opened(state, source, target)) as kept:
        async with Client() as client:
            while True:
                try:
                    await answer(client, source, kept)
                    break
                except BatchTaken:  # by a killed run, for at most 15 seconds
                    await asyncio.sleep(1)
        write(source, target, kept)
    state.unlink()


def opened(state: Path, source: Path, target: Path) -> sqlite3.Connection:
    """Open the state of this input. Each statement is on the disk when it returns."""
    with source.open(newline="", encoding="utf-8-sig") as file:
        columns = next(csv.reader(file), [])
    if "prompt" not in columns:  # before a batch is created
        sys.exit(f"{source} has no column prompt; it has: {', '.join(columns)}")
    if target.exists() and not state.exists():
        sys.exit(f"{target} is there already")
    kept = sqlite3.connect(state, isolation_level=None)
    kept.execute("CREATE TABLE IF NOT EXISTS batch (id, input)")
    kept.execute("CREATE TABLE IF NOT EXISTS answers (row INTEGER PRIMARY KEY, answer, error)")
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kept.execute(
        "INSERT INTO batch SELECT NULL, ? WHERE NOT EXISTS (SELECT 1 FROM batch)", (digest,)
    )
    if kept.execute("SELECT input FROM batch").fetchone() != (digest,):
        sys.exit(f"{source} has changed")
    return kept


async def answer(client: Client, source: Path, kept: sqlite3.Connection) -> None:
    (batch_id,) = kept.execute("SELECT id FROM batch").fetchone()
    async with client.batch(batch_id) as batch:
        kept.execute("UPDATE batch SET id = ?", (batch.id,))
        # For a DataFrame: batch.run(df.to_dict("records")), or df.itertuples(index=False).
        async for line in batch.run(rows(source)):
            # It is acknowledged when the next one is requested; until then it may be repeated.
            text = line.result.text if line.result else ""
            error = "" if line.result else line.message or line.outcome
            row = (line.number, text, error)
            kept.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", row)


def rows(source: Path) -> Iterator[dict[str, str]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file)


def write(source: Path, target: Path, kept: sqlite3.Connection) -> None:
    draft = target.with_name(f"{target.name}.new")
    found = kept.execute("SELECT answer, error FROM answers ORDER BY row")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, (row, (text, error)) in enumerate(zip(rows(source), found, strict=True)):
            if number == 0:
                writer.writerow([*row, "answer", "error"])
            writer.writerow([*row.values(), text, error])
        file.flush()
        os.fsync(file.fileno())
    draft.replace(target)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
