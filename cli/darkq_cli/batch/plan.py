"""What a batch is to do: kept in its state, so that a resume does the same."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from darkq.batches.lines import ForAllLines
from darkq.openai.body import Endpoint
from darkq_cli.batch.source import Fingerprint, Form
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a batch, their paths absolute. `spooled` is an input that was piped in."""

    source: Path
    answers: Path
    errors: Path
    spooled: bool = False

    @property
    def state(self) -> Path:
        return self.answers.with_name(f"{self.answers.name}.darkq")

    def check(self) -> None:
        """Raise `Problem` unless they are four files, in directories that exist."""
        paths = [self.source, self.answers, self.errors, self.state]
        if len({path.resolve() for path in paths}) < len(paths):
            words = f"{self.answers} would be written to twice, or over the input"
            raise Problem(words, exit_code=USAGE_EXIT_CODE)
        for path in (self.answers, self.errors):
            if not path.parent.is_dir():
                words = f"there is no directory {path.parent}"
                raise Problem(words, exit_code=USAGE_EXIT_CODE)
            if path.exists() and not path.is_file():
                raise Problem(f"{path} is no ordinary file", exit_code=USAGE_EXIT_CODE)


def errors_beside(answers: Path) -> Path:
    """Return where failures go unless told: `results.errors.jsonl` for `results.jsonl`."""
    return answers.with_name(f"{answers.stem}.errors{answers.suffix}")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch is to do. `lines` are those that are not blank."""

    name: str | None
    files: Files
    is_text: bool
    common: ForAllLines
    ordered: bool
    window: int
    endpoint: Endpoint
    lines: int
    fingerprint: Fingerprint

    @property
    def form(self) -> Form:
        return Form(self.is_text, self.common)


def encode(plan: Plan, home: Path) -> bytes:
    """Return the plan as JSON, its paths as seen from a directory: they may move together."""
    return msgspec.json.encode(plan, enc_hook=lambda path: os.path.relpath(path, home))


def decode(data: bytes, home: Path) -> Plan:
    """Read a plan that was kept in a directory. Raises `msgspec.DecodeError` for anything else."""
    return msgspec.json.decode(
        data, type=Plan, dec_hook=lambda kind, path: kind(os.path.normpath(home / path))
    )
