"""The whole input, before the first line is sent: a mistake on the last line costs nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from darkq.batches.feed import marked
from darkq.batches.input_lines import Text
from darkq.batches.lines import ForAllLines, Line, json_line, text_line
from darkq.errors import InvalidLine
from darkq.openai.body import CHAT, Endpoint
from darkq_cli.batch.source import Fingerprint, Reading, reading
from darkq_cli.problems import USAGE_EXIT_CODE, Problem

ERRORS_SHOWN = 10
_STEP = 1000


class Form(NamedTuple):
    """How the lines of an input are read."""

    is_text: bool
    common: ForAllLines

    def line(self, text: Text) -> Line:
        """Read a line. Raises `InvalidLine`."""
        read = text_line if self.is_text else json_line
        return read(text.text, text.number, self.common)


class Checked(NamedTuple):
    """What is known of an input without a mistake. `lines` are those that are not blank."""

    lines: int
    endpoint: Endpoint
    fingerprint: Fingerprint


def check(path: Path, name: str, form: Form, tell: Callable[[int], object]) -> Checked:
    """Read an input to its end. `tell` hears now and then how many bytes of the file are read.

    Raises `Problem`, which says the name of the input and its first mistakes.
    """
    with reading(path, name) as source, closing(_Checker()) as checker:
        for count, text in enumerate(source.lines()):
            checker.take(text, form)
            if count % _STEP == 0:
                tell(source.position)
        tell(source.position)
        return checker.checked(name, source)


class _Checker:
    """Takes line after line; finds those that are wrong, or say what another has said."""

    def __init__(self) -> None:
        self.lines = 0
        self._endpoint: Endpoint | None = None
        self._wrong = 0
        self._errors: list[InvalidLine] = []
        # On disk, in a file without a name: a set of a million ids would be 100 MB of memory.
        self._ids = sqlite3.connect("", isolation_level=None)
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("PRAGMA synchronous = OFF")
        self._ids.execute("PRAGMA cache_size = -16000")
        self._ids.execute("CREATE TABLE ids (digest BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._ids.execute("BEGIN")

    def close(self) -> None:
        """Drop the file."""
        self._ids.close()

    def take(self, text: Text | InvalidLine, form: Form) -> None:
        """Check one line more."""
        self.lines += 1
        try:
            if isinstance(text, InvalidLine):
                raise text
            line = form.line(text)
            marked(line)
            self._same_endpoint(line)
            self._unique(line)
        except InvalidLine as error:
            self._wrong += 1
            if len(self._errors) < ERRORS_SHOWN:
                self._errors.append(error)

    def checked(self, name: str, source: Reading) -> Checked:
        """Return what was found. Raises `Problem` unless all lines are right."""
        if self._wrong:
            raise Problem(
                f"{self._wrong:,} of {self.lines:,} lines of {name} are wrong; nothing was sent",
                "\n".join(self._said()),
                exit_code=USAGE_EXIT_CODE,
            )
        if not self.lines:
            raise Problem(f"{name} has no lines", exit_code=USAGE_EXIT_CODE)
        return Checked(self.lines, self._endpoint or CHAT, source.fingerprint)

    def _said(self) -> Iterator[str]:
        yield from map(str, self._errors)
        if self._wrong > len(self._errors):
            yield f"and {self._wrong - len(self._errors):,} more"

    def _same_endpoint(self, line: Line) -> None:
        self._endpoint = self._endpoint or line.endpoint
        if line.endpoint != self._endpoint:
            reason = f"must be {self._endpoint}, as on the lines before"
            raise InvalidLine(line.number, "url", reason, "invalid_url")

    def _unique(self, line: Line) -> None:
        digest = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
        added = self._ids.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (digest, line.number))
        if added.rowcount == 0:
            (first,) = self._ids.execute("SELECT line FROM ids WHERE digest = ?", (digest,))
            reason = f"is that of line {first[0]}, too"
            raise InvalidLine(line.number, "custom_id", reason, "duplicate_custom_id")
