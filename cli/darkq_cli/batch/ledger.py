"""Writes each answer exactly once, even if processes are killed.

A page is on disk when `Ledger.write` returns, and can be acknowledged then. With `--ordered`, a
line that ends before its turn is held in the state, not in memory.

The registry holds one small file for each unfinished batch of this machine, which names its state.
`darkq batch resume ID` reads only that: a name from Redis never becomes a path.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from darkq import Finished, Settings
from darkq.settings.private_files import make_folders, open_new
from darkq_cli.batch.files import OutputFile
from darkq_cli.batch.formats.output import Renderer
from darkq_cli.batch.state import Checkpoint, EndedLine, State
from darkq_cli.terminal.problems import Problem

_RELEASED_BYTES = 8 << 20


class Ledger:
    """Writes the output of a batch. Raises `Problem` when a disk is full, without a change."""

    def __init__(self, state: State) -> None:
        """Continue at the checkpoint; the files are truncated to it."""
        self._state = state
        self._began_s = time.monotonic() - state.checkpoint.elapsed_s
        files = state.plan.files
        self.renderer = state.plan.build_renderer()
        self._answers = OutputFile(files.answers, state.checkpoint.answers_bytes)
        self._errors = OutputFile(files.errors, state.checkpoint.errors_bytes)
        self._release()  # a kill may have come after lines were held and before they were written

    @property
    def checkpoint(self) -> Checkpoint:
        """The last committed progress."""
        return self._state.checkpoint

    def find_unfinished(self, numbers: Sequence[int]) -> list[int]:
        """Return the lines that are neither written nor held."""
        known = self._state.find_known(numbers)
        return [number for number in numbers if number not in known]

    def keep_rows(self, rows: Mapping[int, bytes]) -> None:
        """Keep lines of the input before they are sent, if the output is joined with them."""
        if self._state.plan.output.join:
            self._state.keep_rows(rows)

    def render(self, page: Iterable[Finished]) -> list[EndedLine]:
        """Return the lines to write for results; without those that are written already."""
        known = [finished for finished in page if finished.outcome != "missing"]
        if not self._state.plan.output.join:
            return [render(self.renderer, finished, b"") for finished in known]
        # The rows of lines that are written are not kept any more.
        rows = self._state.read_rows(finished.number for finished in known)
        return [
            render(self.renderer, finished, rows[finished.number])
            for finished in known
            if finished.number in rows
        ]

    def write(self, page: Sequence[EndedLine]) -> None:
        """Write the new lines of a page. When this returns, they can be acknowledged."""
        known = self._state.find_known(line.number for line in page)
        # By number, because a line can occur twice on a page.
        fresh = list({line.number: line for line in page if line.number not in known}.values())
        if not fresh:
            return
        ignored = (name for line in fresh for name in line.ignored)
        checkpoint = msgspec.structs.replace(
            self.checkpoint,
            chunks=self.checkpoint.chunks + sum(line.chunks for line in fresh),
            tokens=self.checkpoint.tokens + sum(line.tokens for line in fresh),
            ignored=tuple(sorted({*self.checkpoint.ignored, *ignored})),
        )
        if self._state.plan.ordered:
            # Two commits: a kill in between leaves lines held, and the next start releases them.
            held = msgspec.structs.replace(checkpoint, held=checkpoint.held + len(fresh))
            self._state.commit(held, hold=fresh)
            self._release()
        else:
            checkpoint = self._append(checkpoint, fresh)
            self._state.commit(checkpoint, done=fresh)

    def close(self) -> None:
        """Close the files."""
        self._answers.close()
        self._errors.close()

    def _release(self) -> None:
        """Write the held lines that follow the written ones without a gap."""
        while lines := self._state.read_held(self.checkpoint.written + 1, _RELEASED_BYTES):
            checkpoint = self._append(self.checkpoint, lines)
            checkpoint = msgspec.structs.replace(checkpoint, held=checkpoint.held - len(lines))
            self._state.commit(checkpoint, done=lines)

    def _append(self, checkpoint: Checkpoint, lines: Sequence[EndedLine]) -> Checkpoint:
        """Append to the files, and return the checkpoint to commit."""
        failed = sum(line.failed for line in lines)
        answers = [line.text for line in lines if not line.failed]
        errors = [line.text for line in lines if line.failed]
        if answers and not checkpoint.answers_bytes:
            answers.insert(0, self.renderer.head(failed=False))
        if errors and not checkpoint.errors_bytes:
            errors.insert(0, self.renderer.head(failed=True))
        return msgspec.structs.replace(
            checkpoint,
            answers_bytes=self._answers.append(b"".join(answers)),
            errors_bytes=self._errors.append(b"".join(errors)),
            completed=checkpoint.completed + len(lines) - failed,
            failed=checkpoint.failed + failed,
            elapsed_s=time.monotonic() - self._began_s,
        )


def render(renderer: Renderer, finished: Finished, row: bytes) -> EndedLine:
    """Return the line to write for a result."""
    number, custom_id, result = finished.number, finished.custom_id, finished.result
    if result is None:
        code = finished.code or finished.outcome
        text = renderer.failure(custom_id, finished.job_id, code, finished.message, row)
        return EndedLine(number, True, text)
    tokens = result.usage.completion_tokens if result.usage else 0
    text = renderer.answer(custom_id, result, row)
    return EndedLine(number, False, text, result.chunks, tokens, result.ignored)


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class Registry:
    """The unfinished batches that were started with a state directory."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.state_dir.resolve() / "batches"

    def add(self, batch_id: str, state: Path) -> None:
        """Record where the state of a batch is. May be repeated."""
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
        """Return where the state of a batch is; None if it is unknown or finished."""
        try:
            state = Path(self._entry(batch_id).read_text())
        except OSError:
            return None
        return state if state.exists() else None

    def remove(self, batch_id: str) -> None:
        """Remove a batch."""
        self._entry(batch_id).unlink(missing_ok=True)

    def _entry(self, batch_id: str) -> Path:
        if not _ID.fullmatch(batch_id):
            raise Problem(f"{batch_id!r} is not the id of a batch")
        return self._directory / batch_id
