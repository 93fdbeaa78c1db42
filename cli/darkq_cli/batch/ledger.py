"""Answers into files, each line once, whatever dies in between.

A page is on the disk when `take` returns, and may be acknowledged then. With `--ordered` a
line that comes before its turn is held in the state, not in memory.

Which unfinished batches of this machine have their state where: one small file for each.

`darkq batch resume ID` looks here. Nothing that is read from Redis ever names a file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from darkq import Settings
from darkq.settings.private_files import make_folders, open_new
from darkq_cli.batch.files import Growing
from darkq_cli.batch.state import Held, Place, State
from darkq_cli.terminal.problems import Problem

_RELEASED_BYTES = 8 << 20


class Ended(NamedTuple):
    """A line's end: `number` is its place among the lines, from 1; `line` is what to write."""

    number: int
    failed: bool
    line: bytes
    chunks: int = 0
    tokens: int = 0


class Ledger:
    """Writes a batch's output. Raises `Problem` where a disk is full, having changed nothing."""

    def __init__(self, state: State) -> None:
        """Take up where the state says; what was written beyond that is cut off."""
        self._state = state
        self._began_s = time.monotonic() - state.place.elapsed_s
        files = state.plan.files
        self._answers = Growing(files.answers, state.place.answers_bytes)
        self._errors = Growing(files.errors, state.place.errors_bytes)
        self._release()  # a kill may have come between holding lines and writing them

    @property
    def place(self) -> Place:
        """How far it has come."""
        return self._state.place

    def missing(self, numbers: Sequence[int]) -> list[int]:
        """Return those of the lines that have not ended yet, as far as is known here."""
        known = self._state.known(numbers)
        return [number for number in numbers if number not in known]

    def take(self, page: Sequence[Ended]) -> None:
        """Write what is new of a page; once this returns, it may be forgotten elsewhere."""
        known = self._state.known(ended.number for ended in page)
        # A line may come twice on a page as well.
        fresh = list({e.number: e for e in page if e.number not in known}.values())
        if not fresh:
            return
        place = msgspec.structs.replace(
            self.place,
            chunks=self.place.chunks + sum(ended.chunks for ended in fresh),
            tokens=self.place.tokens + sum(ended.tokens for ended in fresh),
        )
        lines = [Held(ended.number, ended.failed, ended.line) for ended in fresh]
        if self._state.plan.ordered:
            held = msgspec.structs.replace(place, held=place.held + len(lines))
            self._state.commit(held, hold=lines)
            self._release()
        else:
            place = self._write(place, lines)
            self._state.commit(place, done=[line.number for line in lines])

    def close(self) -> None:
        """Close the files."""
        self._answers.close()
        self._errors.close()

    def _release(self) -> None:
        """Write the lines whose turn has come."""
        while lines := self._state.held_from(self.place.written + 1, _RELEASED_BYTES):
            place = self._write(self.place, lines)
            place = msgspec.structs.replace(place, held=place.held - len(lines))
            numbers = [line.number for line in lines]
            self._state.commit(place, done=numbers, released=numbers)

    def _write(self, place: Place, lines: Sequence[Held]) -> Place:
        """Append to the files, and return the place to commit."""
        answers = [line.line for line in lines if not line.failed]
        errors = [line.line for line in lines if line.failed]
        return msgspec.structs.replace(
            place,
            answers_bytes=self._answers.append(b"".join(answers)),
            errors_bytes=self._errors.append(b"".join(errors)),
            completed=place.completed + len(answers),
            failed=place.failed + len(errors),
            elapsed_s=time.monotonic() - self._began_s,
        )


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class Registry:
    """The batches that began under a state directory and are not over."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.state_dir.resolve() / "batches"

    def add(self, batch_id: str, state: Path) -> None:
        """Remember where a batch has its state. May be repeated."""
        entry = self._entry(batch_id)
        try:
            make_folders(self._directory)
            draft = entry.with_name(f"{entry.name}.new")
            draft.unlink(missing_ok=True)
            with open_new(draft) as file:
                file.write(str(state).encode())
            draft.replace(entry)
        except OSError as error:
            raise Problem(f"cannot write {entry}: {error.strerror}") from None

    def find(self, batch_id: str) -> Path | None:
        """Return where a batch has its state; None for one that is unknown or over."""
        try:
            state = Path(self._entry(batch_id).read_text())
        except OSError:
            return None
        return state if state.exists() else None

    def remove(self, batch_id: str) -> None:
        """Forget a batch."""
        self._entry(batch_id).unlink(missing_ok=True)

    def _entry(self, batch_id: str) -> Path:
        if not _ID.fullmatch(batch_id):
            raise Problem(f"{batch_id!r} is no id of a batch")
        return self._directory / batch_id
