"""The checkpoint of a batch: one SQLite file beside the output, `results.jsonl.darkq`.

A line is first written to the output, then committed here, then acknowledged in Redis. The next
start truncates what was written and not committed. Redis delivers again what was committed and not
acknowledged, and the line is found here. So each line is written once, wherever a kill falls.

SQLite locks the file while it is open, and the kernel releases the lock when the process dies. So
there is at most one runner for an output.
"""

from __future__ import annotations

import fcntl
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from darkq_cli.batch import plan as plans
from darkq_cli.batch.files import sync_directory
from darkq_cli.batch.plan import Plan
from darkq_cli.terminal.problems import Problem, wrong_usage

# "place" is the name of the checkpoint in files of all versions.
_SCHEMA = """
    CREATE TABLE plan (json BLOB NOT NULL);
    CREATE TABLE place (json BLOB NOT NULL);
    CREATE TABLE done (number INTEGER PRIMARY KEY);
    CREATE TABLE held (number INTEGER PRIMARY KEY, failed INTEGER NOT NULL, line BLOB NOT NULL);
"""
_LATER_SCHEMA = """
    CREATE TABLE IF NOT EXISTS failed (number INTEGER PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, text BLOB NOT NULL);
"""
"""Tables that states of darkq 0.2 do not have."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Committed progress: the lengths of the files in bytes, and counts of lines.

    `batch_id` is "" until the batch is created in Redis.
    """

    batch_id: str = ""
    answers_bytes: int = 0
    errors_bytes: int = 0
    completed: int = 0
    failed: int = 0
    held: int = 0
    chunks: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    ignored: tuple[str, ...] = ()

    @property
    def written(self) -> int:
        """How many lines are in the files."""
        return self.completed + self.failed

    @property
    def ended(self) -> int:
        """How many lines have ended: those in the files, and those held."""
        return self.written + self.held


class EndedLine(NamedTuple):
    """A line that has ended: its number, from 1, and the text to write."""

    number: int
    failed: bool
    text: bytes
    chunks: int = 0
    tokens: int = 0
    ignored: tuple[str, ...] = ()


class StateFile:
    """The file, locked until it is closed. Raises `Problem` while another process holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = _open(path)
        self._deleted = False
        self._claim: Path | None = None

    def claim(self, path: Path) -> None:
        """Reserve another output file, by a symbolic link beside it. May be repeated.

        Raises `Problem` while an unfinished batch has reserved it.
        """
        link = path.with_name(f"{path.name}.darkq")
        while not _link(link, self._path):
            if not link.is_symlink() or link.exists():
                raise wrong_usage(
                    f"{path} belongs to another unfinished batch", "Choose another --errors."
                )
            link.unlink(missing_ok=True)  # its batch has no state any more
        self._claim = link

    @property
    def is_empty(self) -> bool:
        """Tell whether no batch was started here."""
        with _translate_errors(self._path):
            tables = "SELECT count(*) FROM sqlite_master"
            return not self._deleted and self._database.execute(tables).fetchone()[0] == 0

    def load(self) -> State | None:
        """Return the state of the batch that was started here, or None."""
        if self.is_empty:
            return None
        with _translate_errors(self._path):
            (plan,) = self._database.execute("SELECT json FROM plan").fetchone()
            (checkpoint,) = self._database.execute("SELECT json FROM place").fetchone()
            plan = plans.decode(plan, self._path.parent)
            _create_tables(self._database, _LATER_SCHEMA)
            checkpoint = msgspec.json.decode(checkpoint, type=Checkpoint)
        return State(self._path, self._database, plan, checkpoint)

    def start(self, plan: Plan) -> State:
        """Start a batch. Raises `Problem` when it cannot be written."""
        checkpoint = Checkpoint()
        with _transaction(self._path, self._database) as database:
            _create_tables(database, _SCHEMA + _LATER_SCHEMA)
            database.execute(
                "INSERT INTO plan VALUES (?)", (plans.encode(plan, self._path.parent),)
            )
            database.execute("INSERT INTO place VALUES (?)", (msgspec.json.encode(checkpoint),))
        sync_directory(self._path)
        return State(self._path, self._database, plan, checkpoint)

    def keep(self) -> None:
        """Leave the file after the end of a batch, for a retry of its failed lines."""
        self._release_claim()
        self._journal.unlink(missing_ok=True)  # empty, and still locked

    def reset(self) -> None:
        """Forget the batch that was started here, and stay locked."""
        with _transaction(self._path, self._database) as database:
            for table in ("plan", "place", "done", "held", "failed", "rows"):
                database.execute(f"DROP TABLE {table}")

    def close(self) -> None:
        """Close and unlock the file."""
        self._database.close()

    def delete(self) -> None:
        """Delete it, after the end of the batch or if none was started."""
        self._release_claim()
        self._path.unlink()
        self._deleted = True
        self.close()
        self._journal.unlink(missing_ok=True)

    @property
    def _journal(self) -> Path:
        return self._path.with_name(f"{self._path.name}-journal")

    def _release_claim(self) -> None:
        if self._claim is not None:
            self._claim.unlink(missing_ok=True)


class State:
    """The plan and the checkpoint of the batch in a state file."""

    def __init__(
        self, path: Path, database: sqlite3.Connection, plan: Plan, checkpoint: Checkpoint
    ) -> None:
        self.plan = plan
        self.checkpoint = checkpoint
        self._path = path
        self._database = database

    @property
    def complete(self) -> bool:
        """Tell whether all lines are in the files."""
        return self.checkpoint.written == self.plan.lines

    def find_known(self, numbers: Iterable[int]) -> set[int]:
        """Return the lines that are written or held."""
        wanted = msgspec.json.encode(list(numbers)).decode()
        query = (
            "SELECT number FROM done WHERE number IN (SELECT value FROM json_each(?1)) UNION ALL "
            "SELECT number FROM held WHERE number IN (SELECT value FROM json_each(?1))"
        )
        return {number for (number,) in self._database.execute(query, (wanted,))}

    def read_held(self, number: int, max_bytes: int) -> list[EndedLine]:
        """Return the held lines from `number` up to a gap, about `max_bytes` at most."""
        found: list[EndedLine] = []
        size = 0
        query = "SELECT number, failed, line FROM held WHERE number >= ? ORDER BY number"
        for row in self._database.execute(query, (number,)):
            if row[0] != number + len(found) or size >= max_bytes:
                break
            found.append(EndedLine(row[0], bool(row[1]), row[2]))
            size += len(row[2])
        return found

    def keep_rows(self, rows: Mapping[int, bytes]) -> None:
        """Keep lines of the input until they are written, for a joined output."""
        with _transaction(self._path, self._database) as database:
            database.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?)", rows.items())

    def read_rows(self, numbers: Iterable[int]) -> dict[int, bytes]:
        """Return the lines of the input that are kept, by their numbers."""
        wanted = msgspec.json.encode(list(numbers)).decode()
        query = "SELECT number, text FROM rows WHERE number IN (SELECT value FROM json_each(?))"
        return dict(self._database.execute(query, (wanted,)).fetchall())

    def commit(
        self,
        checkpoint: Checkpoint,
        *,
        done: Sequence[EndedLine] = (),
        hold: Sequence[EndedLine] = (),
    ) -> None:
        """Commit in one transaction: lines that are written, or held. Raises `Problem`."""
        ended = [(line.number,) for line in (*done, *hold)]
        written = [(line.number,) for line in done]
        failed = [(line.number,) for line in done if line.failed]
        with _transaction(self._path, self._database) as database:
            database.executemany("INSERT INTO done VALUES (?)", written)
            database.executemany("INSERT INTO failed VALUES (?)", failed)
            database.executemany("DELETE FROM held WHERE number = ?", written)
            database.executemany("INSERT INTO held VALUES (?, ?, ?)", [line[:3] for line in hold])
            database.executemany("DELETE FROM rows WHERE number = ?", ended)
            database.execute("UPDATE place SET json = ?", (msgspec.json.encode(checkpoint),))
        self.checkpoint = checkpoint

    def forget_failed(self, *, ignore_unsupported: bool = False) -> None:
        """Make the failed lines unfinished, to run them again in another batch.

        Their order is lost. `ignore_unsupported` makes it an option of the batch. Raises `Problem`
        when a version without `batch retry` has written some of them.
        """
        (known,) = self._database.execute("SELECT count(*) FROM failed").fetchone()
        if known != self.checkpoint.failed:
            raise Problem("the batch was started by a version that kept no list of failed lines")
        common = self.plan.common
        if ignore_unsupported:
            common = msgspec.structs.replace(common, ignore_unsupported=True)
        plan = msgspec.structs.replace(self.plan, common=common, ordered=False)
        checkpoint = msgspec.structs.replace(self.checkpoint, batch_id="", failed=0, errors_bytes=0)
        with _transaction(self._path, self._database) as database:
            database.execute("DELETE FROM done WHERE number IN (SELECT number FROM failed)")
            database.execute("DELETE FROM failed")
            encoded = plans.encode(plan, self._path.parent)
            database.execute("UPDATE plan SET json = ?", (encoded,))
            database.execute("UPDATE place SET json = ?", (msgspec.json.encode(checkpoint),))
        self.plan, self.checkpoint = plan, checkpoint


def _create_tables(database: sqlite3.Connection, schema: str) -> None:
    for statement in schema.split(";"):
        database.execute(statement)


def _open(path: Path) -> sqlite3.Connection:
    with _translate_errors(path):
        database = sqlite3.connect(path, timeout=0, isolation_level=None)
        # With EXCLUSIVE, the first write takes the lock until the file is closed.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = TRUNCATE")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN EXCLUSIVE")
        database.execute("COMMIT")
    if not path.exists():  # its last holder has deleted it before we locked it
        database.close()
        return _open(path)
    return database


def _link(link: Path, state: Path) -> bool:
    """Link to the state. Return False if another file is in the way."""
    try:
        link.symlink_to(state)
    except FileExistsError:
        return link.is_symlink() and link.readlink() == state
    except OSError:  # no symbolic links here; the locks on the outputs remain
        return True
    return True


@contextmanager
def _transaction(path: Path, database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit the block, or roll it back. Raises `Problem`."""
    with _translate_errors(path), database:
        database.execute("BEGIN IMMEDIATE")
        yield database


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if not _locks_work(path.parent):
            raise Problem(
                f"the file system of {path.parent} has no file locks, which {path.name} needs",
                "It may be a network share (SMB, NFS). Write to a local disk, and copy it later.",
            ) from None
        if "locked" in str(error):
            output = path.with_suffix("")
            raise Problem(f"another darkq batch is writing {output}") from None
        raise Problem(f"cannot write {path}: {error}") from None
    except (sqlite3.DatabaseError, msgspec.DecodeError):
        raise Problem(f"{path} is not the state of a batch") from None


def _locks_work(directory: Path) -> bool:
    """Tell whether a file here can be locked. If not, SQLite reports every file as locked."""
    with suppress(OSError), tempfile.TemporaryFile(dir=directory) as probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
