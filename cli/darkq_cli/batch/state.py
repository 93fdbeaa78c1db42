"""How far a batch has come: one SQLite file beside the output, `results.jsonl.darkq`.

Lines are written to the output first, then committed here, then acknowledged in Redis. What
was written and not committed is cut off at the next start; what was committed and not
acknowledged comes again and is known here. So each line is written once, wherever a kill falls.

The file is locked as long as it is open, by SQLite, and the kernel drops the lock with the
process: two runners of one output exclude each other.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from darkq_cli.batch import plan as plans
from darkq_cli.batch.files import sync_directory
from darkq_cli.batch.plan import Plan
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem

_SCHEMA = """
    CREATE TABLE plan (json BLOB NOT NULL);
    CREATE TABLE place (json BLOB NOT NULL);
    CREATE TABLE done (number INTEGER PRIMARY KEY);
    CREATE TABLE held (number INTEGER PRIMARY KEY, failed INTEGER NOT NULL, line BLOB NOT NULL);
"""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch has come: committed lengths of its files, in bytes, and counts.

    `batch_id` is "" until Redis is asked to make the batch.
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

    @property
    def written(self) -> int:
        """How many lines are in the files."""
        return self.completed + self.failed

    @property
    def ended(self) -> int:
        """How many lines are known here: in the files, or held."""
        return self.written + self.held


class Held(NamedTuple):
    """A line that waits for those before it."""

    number: int
    failed: bool
    line: bytes


class StateFile:
    """The file, locked until it is closed. Raises `Problem` while another process has it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = _open(path)
        self._deleted = False
        self._claim: Path | None = None

    def claim(self, path: Path) -> None:
        """Have a file to itself besides the output, as a link beside it shows. May be repeated.

        Raises `Problem` while it is of another batch that is not over.
        """
        link = path.with_name(f"{path.name}.darkq")
        while not _linked(link, self._path):
            if not link.is_symlink() or link.exists():
                raise Problem(
                    f"{path} is of another batch that is not over",
                    "Choose another --errors.",
                    exit_code=USAGE_EXIT_CODE,
                )
            link.unlink(missing_ok=True)  # of a batch whose state is gone
        self._claim = link

    @property
    def is_empty(self) -> bool:
        """Tell whether no batch has begun here."""
        with _in_words(self._path):
            tables = "SELECT count(*) FROM sqlite_master"
            return not self._deleted and self._database.execute(tables).fetchone()[0] == 0

    def load(self) -> State | None:
        """Return the state of the batch that has begun here; None when none has."""
        if self.is_empty:
            return None
        with _in_words(self._path):
            (plan,) = self._database.execute("SELECT json FROM plan").fetchone()
            (place,) = self._database.execute("SELECT json FROM place").fetchone()
            known = plans.decode(plan, self._path.parent), msgspec.json.decode(place, type=Place)
        return State(self._path, self._database, *known)

    def begin(self, plan: Plan) -> State:
        """Begin a batch. Raises `Problem` when that cannot be written."""
        place = Place()
        with _in_words(self._path), _committing(self._database) as database:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(
                "INSERT INTO plan VALUES (?)", (plans.encode(plan, self._path.parent),)
            )
            database.execute("INSERT INTO place VALUES (?)", (msgspec.json.encode(place),))
        sync_directory(self._path)
        return State(self._path, self._database, plan, place)

    def close(self) -> None:
        """Let go of it."""
        self._database.close()

    def delete(self) -> None:
        """Take it away: the batch is over, or has not begun."""
        if self._claim is not None:
            self._claim.unlink(missing_ok=True)
        self._path.unlink()
        self._deleted = True
        self.close()
        self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)


class State:
    """How far the batch of a state file has come."""

    def __init__(self, path: Path, database: sqlite3.Connection, plan: Plan, place: Place) -> None:
        self.plan = plan
        self.place = place
        self._path = path
        self._database = database

    @property
    def complete(self) -> bool:
        """Tell whether all lines are in the files."""
        return self.place.written == self.plan.lines

    def known(self, numbers: Iterable[int]) -> set[int]:
        """Return those of the lines that are written or held."""
        wanted = msgspec.json.encode(list(numbers)).decode()
        query = (
            "SELECT number FROM done WHERE number IN (SELECT value FROM json_each(?1)) UNION ALL "
            "SELECT number FROM held WHERE number IN (SELECT value FROM json_each(?1))"
        )
        return {number for (number,) in self._database.execute(query, (wanted,))}

    def held_from(self, number: int, max_bytes: int) -> list[Held]:
        """Return the lines held without a gap from `number` on, as many as fit in so many bytes."""
        found: list[Held] = []
        size = 0
        query = "SELECT number, failed, line FROM held WHERE number >= ? ORDER BY number"
        for row in self._database.execute(query, (number,)):
            if row[0] != number + len(found) or size >= max_bytes:
                break
            found.append(Held(row[0], bool(row[1]), row[2]))
            size += len(row[2])
        return found

    def commit(
        self,
        place: Place,
        *,
        done: Sequence[int] = (),
        hold: Sequence[Held] = (),
        released: Sequence[int] = (),
    ) -> None:
        """Note what has been written, and what is held. Raises `Problem`: nothing has changed."""
        with _in_words(self._path), _committing(self._database) as database:
            database.executemany("INSERT INTO done VALUES (?)", ((n,) for n in done))
            database.executemany("INSERT INTO held VALUES (?, ?, ?)", hold)
            database.executemany("DELETE FROM held WHERE number = ?", ((n,) for n in released))
            database.execute("UPDATE place SET json = ?", (msgspec.json.encode(place),))
        self.place = place


def _open(path: Path) -> sqlite3.Connection:
    with _in_words(path):
        database = sqlite3.connect(path, timeout=0, isolation_level=None)
        # The first write takes the lock, and keeps it.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = TRUNCATE")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN EXCLUSIVE")
        database.execute("COMMIT")
    if not path.exists():  # its last holder has just taken it away
        database.close()
        return _open(path)
    return database


def _linked(link: Path, state: Path) -> bool:
    """Point to a state; False when something else is there."""
    try:
        link.symlink_to(state)
    except FileExistsError:
        return link.is_symlink() and link.readlink() == state
    except OSError:  # no links here; outputs exclude each other all the same
        return True
    return True


@contextmanager
def _committing(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if not _locks_work(path.parent):
            raise Problem(
                f"the file system of {path.parent} locks no files, as {path.name} must be",
                "It may be a share (SMB, NFS). Write to a local disk, and copy the answers later.",
            ) from None
        if "locked" in str(error):
            output = path.with_suffix("")
            raise Problem(f"another darkq batch is writing {output}") from None
        raise Problem(f"cannot write {path}: {error}") from None
    except (sqlite3.DatabaseError, msgspec.DecodeError):
        raise Problem(f"{path} is not the state of a batch") from None


def _locks_work(directory: Path) -> bool:
    """Tell whether a new file can be locked. Where none can, SQLite always says "locked"."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    with suppress(OSError), tempfile.TemporaryFile(dir=directory) as probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
