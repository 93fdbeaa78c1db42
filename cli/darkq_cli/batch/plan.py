"""What a batch is to do. The plan is kept in the state, so that a resume does the same."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from darkq.batches.lines import ForAllLines
from darkq.openai.body import CHAT, Endpoint
from darkq_cli.batch.formats.output import OutputFormat, Renderer
from darkq_cli.batch.formats.rows import InputFormat, LineFormat
from darkq_cli.batch.source import Fingerprint
from darkq_cli.terminal.problems import wrong_usage


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a batch, as absolute paths. `spooled` means that the input came from a pipe."""

    source: Path
    answers: Path
    errors: Path
    spooled: bool = False

    @property
    def state(self) -> Path:
        return self.answers.with_name(f"{self.answers.name}.darkq")

    def check(self) -> None:
        """Raise `Problem` unless they are four different files in directories that exist."""
        paths = [self.source, self.answers, self.errors, self.state]
        if len({path.resolve() for path in paths}) < len(paths):
            words = f"two of the output files and the input are the same file: {self.answers}"
            raise wrong_usage(words)
        for path in (self.answers, self.errors):
            if not path.parent.is_dir():
                raise wrong_usage(f"the directory {path.parent} does not exist")
            if path.exists() and not path.is_file():
                raise wrong_usage(f"{path} is not a regular file")


def build_errors_path(answers: Path) -> Path:
    """Return the default file for failures: `results.errors.jsonl` for `results.jsonl`."""
    return answers.with_name(f"{answers.stem}.errors{answers.suffix}")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch is to do. `lines` counts the lines that are not blank.

    In a draft, what the check of the input finds (`CheckedInput`) is still empty.
    """

    name: str | None
    files: Files
    input: InputFormat = InputFormat()
    output: OutputFormat = OutputFormat()
    columns: tuple[str, ...] = ()
    common: ForAllLines
    ordered: bool
    window: int
    endpoint: Endpoint = CHAT
    lines: int = 0
    fingerprint: Fingerprint = Fingerprint(0, "")

    @property
    def format(self) -> LineFormat:
        return LineFormat(self.input, self.common)

    def build_renderer(self) -> Renderer:
        """Return what makes the lines of the output."""
        return Renderer(self.input.kind, self.output, self.endpoint, self.columns)


def encode(plan: Plan, home: Path) -> bytes:
    """Return the plan as JSON. Paths are relative to `home`, so all files can move together."""
    return msgspec.json.encode(plan, enc_hook=lambda path: os.path.relpath(path, home))


def decode(data: bytes, home: Path) -> Plan:
    """Read a plan that was kept in `home`. Raises `msgspec.DecodeError`."""
    plan = msgspec.json.decode(
        data, type=Plan, dec_hook=lambda kind, path: kind(os.path.normpath(home / path))
    )
    if msgspec.json.decode(data, type=_OldPlan).is_text:
        return msgspec.structs.replace(plan, input=InputFormat(kind="text"))
    return plan


class _OldPlan(msgspec.Struct):
    """A plan of darkq 0.2, which has this in place of `input`."""

    is_text: bool = False
