"""Starts a batch or resumes one: checks its files and its input, and opens its state."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import msgspec

from darkq import DarkqError, Settings
from darkq.batches.lines import ForAllLines
from darkq.protocol.job import MAX_NAME_CHARS, Job, check_name
from darkq_cli.batch import runner
from darkq_cli.batch.files import sync_directory
from darkq_cli.batch.formats.output import OutputFormat
from darkq_cli.batch.formats.rows import DELIMITERS, InputFormat, Kind, find_kind
from darkq_cli.batch.ledger import Registry
from darkq_cli.batch.plan import Files, Plan, build_errors_path
from darkq_cli.batch.progress import show_checking
from darkq_cli.batch.source import build_read_problem, check, open_input
from darkq_cli.batch.state import State, StateFile
from darkq_cli.batch.summary import Summary
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.interrupts import delay_interrupts
from darkq_cli.terminal.problems import Problem, wrong_usage
from darkq_cli.terminal.short_ids import find_batch_id

_STDIN = "-"
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Source:
    """The input as a user names it: a file, a pipe, or `-` for standard input."""

    argument: str

    @property
    def name(self) -> str:
        """Its name in messages."""
        return "standard input" if self.argument == _STDIN else self.argument

    @property
    def path(self) -> Path:
        """Its path, to read it once."""
        return Path("/dev/stdin") if self.argument == _STDIN else Path(self.argument).absolute()

    @property
    def is_piped(self) -> bool:
        """Tell whether the input can be read only once, such as a pipe or a terminal."""
        if self.argument == _STDIN:
            return True
        try:
            mode = self.path.stat().st_mode
        except OSError:  # opening it reports the error
            return False
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    @property
    def default_name(self) -> str | None:
        """The name of a batch that has been given none."""
        name = "" if self.is_piped else Path(self.argument).name
        return name if name.isprintable() and 0 < len(name) <= MAX_NAME_CHARS else None

    def build_files(self, output: Path, errors: Path | None) -> Files:
        """Return the files of a batch with this input. A pipe is spooled beside the output."""
        answers, spooled = output.absolute(), self.is_piped
        return Files(
            source=answers.with_name(f"{answers.name}.darkq-input") if spooled else self.path,
            answers=answers,
            errors=build_errors_path(answers) if errors is None else errors.absolute(),
            spooled=spooled,
        )


def build_common(*, options: Mapping[str, Any], **others: Any) -> ForAllLines:
    """Check the options that all lines share. Raises `InvalidJob`."""
    job = Job.create("?", options=options, **others)
    return ForAllLines(options=job.options, **others)


def build_output_format(
    output: Path, source: InputFormat, *, kind: Kind | None, join: bool | None, answer_field: str
) -> OutputFormat:
    """Return the format of the output. By default, tables and texts are joined into tables."""
    kind = kind or find_kind(output.name)
    if join is None:
        join = kind in DELIMITERS and source.kind != "jsonl"
    if join and kind == "text":
        raise wrong_usage("--join needs --format jsonl, csv or tsv")
    return OutputFormat(kind=kind, join=join, answer_field=answer_field)


def run(source: Source, draft: Plan, *, dry_run: bool) -> None:
    """Run a batch, or resume the one that was started with the same arguments.

    The check of the input completes the draft.
    """
    check_name("name", draft.name)
    draft.input.check()
    if dry_run:
        plan = _complete(draft, source, source.path)
        output.write_one(
            {"lines": plan.lines, "endpoint": plan.endpoint},
            f"{plan.lines:,} lines, all valid; nothing was sent",
        )
        return
    with _translate_os_errors(draft.files.answers):
        draft.files.check()
        with _open_state(draft.files.state) as file:
            state = file.load()
            has_output = draft.files.answers.exists() or draft.files.errors.exists()
            if state is not None and state.complete and not has_output:
                file.reset()  # its outputs were deleted, to start again
                state = None
            if state is None:
                state = _start(file, source, draft)
            else:
                _check_same(state, source, draft)
            _run_to_end(file, state)


def resume(batch_id: str) -> None:
    """Resume a batch that was started on this machine."""
    path = Registry(Settings.load()).find(batch_id)
    if path is None:
        raise Problem(
            f"no unfinished batch {batch_id} was started here",
            f"To copy its results from Redis: {program.command()} batch results {batch_id} -o FILE",
        )
    with _translate_os_errors(path), _open_state(path) as file:
        state = file.load()
        if state is None or state.checkpoint.batch_id != batch_id:
            raise Problem(f"{path} belongs to another batch now")
        if not state.complete:
            _check_unchanged(state.plan, state.plan.files.source)
        _run_to_end(file, state)


def retry(batch: str, *, ignore_unsupported: bool) -> None:
    """Run the failed lines of a batch again, which is given by its id or its output file."""
    registry, darkq = Registry(Settings.load()), program.command()
    path = _find_state(batch, registry)
    with _translate_os_errors(path), _open_state(path) as file:
        state = file.load()
        if state is None:
            raise Problem(f"{path} holds no batch")
        batch_id = state.checkpoint.batch_id
        if not state.complete:
            raise Problem(
                f"{batch_id} is unfinished", f"To resume it: {darkq} batch resume {batch_id}"
            )
        _check_unchanged(state.plan, state.plan.files.source)
        state.forget_failed(ignore_unsupported=ignore_unsupported)
        registry.remove(batch_id)
        _run_to_end(file, state)


def _find_state(batch: str, registry: Registry) -> Path:
    """Return the state of a batch whose lines have failed."""
    output = Path(batch).absolute()
    beside = output.with_name(f"{output.name}.darkq")
    if beside.exists():
        return beside
    found = None if output.exists() else registry.find(find_batch_id(batch))
    if found is None:
        raise Problem(
            f"no batch {batch} with failed lines was run here",
            f"To list the batches in Redis: {program.command()} batch list",
        )
    return found


def _end(file: StateFile, state: State, registry: Registry) -> None:
    """Remove what an unfinished batch keeps. `batch retry` needs that as long as lines failed."""
    files = state.plan.files
    if state.checkpoint.failed:
        file.keep()
        return
    if files.errors.exists() and not files.errors.stat().st_size:
        files.errors.unlink()  # all lines in it were answered by a retry
    if files.spooled:
        files.source.unlink(missing_ok=True)
    file.delete()
    registry.remove(state.checkpoint.batch_id)


@contextmanager
def _translate_os_errors(path: Path) -> Iterator[None]:
    """Raise errors of a disk or a network share as `Problem`."""
    try:
        yield
    except DarkqError:  # some are OSErrors too, with a better message
        raise
    except OSError as error:
        words = f"cannot use {error.filename or path}: {error.strerror or type(error).__name__}"
        raise Problem(words) from None


@contextmanager
def _open_state(path: Path) -> Iterator[StateFile]:
    """Open a state file; delete it at the end if no batch was started in it."""
    file = None
    try:
        with delay_interrupts():  # an interruption here would leave the file behind
            file = StateFile(path)
        yield file
    finally:
        if file is not None:
            if file.is_empty:
                file.delete()
            file.close()


def _complete(draft: Plan, source: Source, path: Path) -> Plan:
    """Check the input, and return the plan with what that has found."""
    with show_checking(path) as report:
        checked = check(path, source.name, draft.format, draft.output, report)
    return msgspec.structs.replace(draft, **checked._asdict())


def _start(file: StateFile, source: Source, draft: Plan) -> State:
    files = draft.files
    file.claim(files.errors)
    for path in (files.answers, files.errors):
        if path.exists() and path.stat().st_size:
            raise wrong_usage(
                f"{path} already exists: from a finished batch, or from another program",
                "Choose another name, or delete it to start again.",
            )
    try:
        if files.spooled:
            _spool(source, files.source)
        return file.start(_complete(draft, source, files.source))
    except BaseException:
        if files.spooled:
            files.source.unlink(missing_ok=True)
        raise


def _spool(source: Source, path: Path) -> None:
    """Copy the input of a pipe to a file, so that a resume can read it again."""
    try:
        is_stdin = source.argument == _STDIN
        pipe = cast(BufferedReader, sys.stdin.buffer) if is_stdin else source.path.open("rb")
    except OSError as error:
        raise build_read_problem(source.name, error) from None
    with pipe:
        if pipe.isatty():
            messages.say("Type the lines. Ctrl-D on an empty line ends the input.", style="dim")
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as spool:
                # read1 returns after one read of the pipe, so that Python can handle signals.
                while piece := pipe.read1(_READ_BYTES):
                    spool.write(piece)
                spool.flush()
                os.fsync(spool.fileno())
            sync_directory(path)
        except OSError as error:
            raise Problem(f"cannot write {path}: {error.strerror}") from None


def _check_same(state: State, source: Source, draft: Plan) -> None:
    """Raise `Problem` unless the draft is that of the batch in the state."""
    plan, batch_id = state.plan, state.checkpoint.batch_id
    words = f"{plan.files.answers} belongs to the unfinished batch {batch_id}"
    hint = f"To resume it: {program.command()} batch resume {batch_id}"
    if state.complete:
        words = f"{plan.files.answers} belongs to batch {batch_id}"
        hint = f"To run its failed lines again: {program.command()} batch retry {batch_id}"
    both_spooled = plan.files.spooled and draft.files.spooled
    if not both_spooled and plan.files.source != draft.files.source:
        raise wrong_usage(f"{words}, which has another input", hint)
    _check_unchanged(plan, source.path)
    for name in ("files", "format", "output", "ordered"):
        if getattr(plan, name) != getattr(draft, name):
            raise wrong_usage(f"{words}, which has other options", hint)


def _check_unchanged(plan: Plan, path: Path) -> None:
    """Raise `Problem` if the input at this path is not the one of the plan any more."""
    with open_input(path) as source:
        source.read_to_end()
        if source.fingerprint == plan.fingerprint:
            return
    raise wrong_usage(
        f"{plan.files.source} has changed since the start of the batch",
        "Restore it, or start another batch with another -o.",
    )


def _run_to_end(file: StateFile, state: State) -> None:
    registry = Registry(Settings.load())
    file.claim(state.plan.files.errors)
    if state.checkpoint.batch_id:  # a kill may have come before it was registered
        registry.add(state.checkpoint.batch_id, state.plan.files.state)
    if not state.complete:
        runner.run(state, registry)
    summary = Summary.build(state)
    if state.complete:
        _end(file, state, registry)
    output.write_one(summary, summary.list_facts())
    summary.raise_if_failed()
