"""The counts of a batch at its end."""

from __future__ import annotations

from typing import Self

import msgspec

from darkq_cli.batch.formats.output import read_failure
from darkq_cli.batch.state import State
from darkq_cli.terminal import program
from darkq_cli.terminal.problems import Problem, refuses_option


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a batch. `elapsed_s` is the total time of all its runners."""

    batch_id: str
    lines: int
    completed: int
    failed: int
    chunks: int
    tokens: int
    elapsed_s: float
    output: str
    errors: str | None
    first_failure: str = ""
    ignored: tuple[str, ...] = ()

    @classmethod
    def build(cls, state: State) -> Self:
        """Build the summary of a batch."""
        plan, checkpoint = state.plan, state.checkpoint
        failed = checkpoint.failed
        return cls(
            batch_id=checkpoint.batch_id,
            lines=plan.lines,
            completed=checkpoint.completed,
            failed=failed,
            chunks=checkpoint.chunks,
            tokens=checkpoint.tokens,
            elapsed_s=round(checkpoint.elapsed_s, 3),
            output=str(plan.files.answers),
            errors=str(plan.files.errors) if failed else None,
            ignored=checkpoint.ignored,
            first_failure=read_failure(plan.output, plan.files.errors) if failed else "",
        )

    def list_facts(self) -> dict[str, str]:
        """Return the counts as texts."""
        per_s = 1 / self.elapsed_s if self.elapsed_s else 0.0
        facts = {"batch": self.batch_id, "answered": f"{self.completed:,} of {self.lines:,} lines"}
        if self.completed:
            facts["answered"] += f", into {program.shorten_path(self.output)}"
        if self.errors:
            facts["failed"] = f"{self.failed:,}, into {program.shorten_path(self.errors)}"
        if self.ignored:
            facts["ignored"] = f"{', '.join(self.ignored)}: not supported by the upstream"
        facts["time"] = f"{self.elapsed_s:,.1f} s, {self.lines * per_s:,.1f} lines/s"
        facts["chunks"] = f"{self.chunks:,}, {self.chunks * per_s:,.0f} chunks/s"
        if self.tokens:
            facts["tokens"] = f"{self.tokens:,}, {self.tokens * per_s:,.0f} tokens/s"
        return facts

    def raise_if_failed(self) -> None:
        """Raise `Problem` unless every line has an answer."""
        if self.failed and self.errors:
            first = f"The first is {self.first_failure}\n" if self.first_failure else ""
            again = f"{program.command()} batch retry {self.batch_id}"
            if refuses_option(self.first_failure):
                again += " --ignore-unsupported"
            raise Problem(
                f"{self.failed:,} of {self.lines:,} lines failed",
                f"{first}See {program.shorten_path(self.errors)}\nTo run them again: {again}",
            )
        if self.completed < self.lines:
            raise Problem(f"{self.lines - self.completed:,} of {self.lines:,} lines are missing")
