"""Which unfinished batches of this machine have their state where: one small file for each.

`darkq batch resume ID` looks here. Nothing that is read from Redis ever names a file.
"""

from __future__ import annotations

import re
from pathlib import Path

from darkq import Settings
from darkq.settings.private_files import make_folders, open_new
from darkq_cli.problems import Problem

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
