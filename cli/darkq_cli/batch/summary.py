"""What became of a batch, at its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import msgspec

from darkq_cli.batch.state import State
from darkq_cli.terminal.problems import Problem

_LINE_BYTES = 1 << 20


def _near(path: str | None) -> str:
    """A path as one would type it here."""
    near = os.path.relpath(path or "")
    return str(path) if near.startswith("..") else near


def _first_failure(path: str | None) -> str:
    """Tell what the first line of an errors file says; "" when it cannot be read."""
    try:
        with Path(path or "").open("rb") as file:
            failure = msgspec.json.decode(file.readline(_LINE_BYTES), type=_Failure)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return f"{failure.custom_id} is the first: {failure.error.code}: {failure.error.message}\n"


class _Error(msgspec.Struct):
    code: str
    message: str


class _Failure(msgspec.Struct):
    custom_id: str
    error: _Error


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a batch. `elapsed_s` is the time that its runners ran, all together."""

    batch_id: str
    lines: int
    completed: int
    failed: int
    chunks: int
    tokens: int
    elapsed_s: float
    output: str
    errors: str | None

    @classmethod
    def of(cls, state: State) -> Self:
        """Sum up a batch."""
        plan, place = state.plan, state.place
        return cls(
            batch_id=place.batch_id,
            lines=plan.lines,
            completed=place.completed,
            failed=place.failed,
            chunks=place.chunks,
            tokens=place.tokens,
            elapsed_s=round(place.elapsed_s, 3),
            output=str(plan.files.answers),
            errors=str(plan.files.errors) if place.failed else None,
        )

    def facts(self) -> dict[str, str]:
        """Return what to tell people."""
        per_s = 1 / self.elapsed_s if self.elapsed_s else 0.0
        facts = {
            "batch": self.batch_id,
            "answered": f"{self.completed:,} of {self.lines:,} lines",
        }
        if self.completed:
            facts["answered"] += f", into {_near(self.output)}"
        if self.errors:
            facts["failed"] = f"{self.failed:,}, into {_near(self.errors)}"
        facts["time"] = f"{self.elapsed_s:,.1f} s, {self.lines * per_s:,.1f} lines/s"
        facts["chunks"] = f"{self.chunks:,}, {self.chunks * per_s:,.0f} chunks/s"
        if self.tokens:
            facts["tokens"] = f"{self.tokens:,}, {self.tokens * per_s:,.0f} tokens/s"
        return facts

    def raise_if_failed(self) -> None:
        """Raise `Problem` unless every line has an answer."""
        if self.failed:
            raise Problem(
                f"{self.failed:,} of {self.lines:,} lines failed",
                f"{_first_failure(self.errors)}See {_near(self.errors)}",
            )
        if self.completed < self.lines:
            raise Problem(f"{self.lines - self.completed:,} of {self.lines:,} lines are missing")
