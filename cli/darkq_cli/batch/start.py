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

from darkq import DarkqError, Settings
from darkq.batches.lines import ForAllLines
from darkq.protocol.job import MAX_NAME_CHARS, Job, check_name
from darkq_cli.batch import runner
from darkq_cli.batch.files import sync_directory
from darkq_cli.batch.formats.output import OutputFormat
from darkq_cli.batch.formats.rows import DELIMITERS, InputFormat, Kind, LineFormat, find_kind
from darkq_cli.batch.ledger import Registry
from darkq_cli.batch.plan import Files, Plan, build_errors_path
from darkq_cli.batch.progress import show_checking
from darkq_cli.batch.source import (
    CheckedInput,
    Fingerprint,
    build_read_problem,
    check,
    open_input,
)
from darkq_cli.batch.state import State, StateFile
from darkq_cli.batch.summary import Summary
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.interrupts import delay_interrupts
from darkq_cli.terminal.problems import Problem, wrong_usage
from darkq_cli.terminal.short_ids import find_batch_id

_STDIN = "-"
_READ_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class BatchArguments:
    """The arguments of `darkq batch run`. `source` may be `-` (standard input) or a pipe."""

    source: str
    output: Path
    errors: Path | None
    ordered: bool
    name: str | None
    window: int
    input: InputFormat
    output_format: OutputFormat
    common: ForAllLines

    @property
    def format(self) -> LineFormat:
        return LineFormat(self.input, self.common)

    @property
    def batch_name(self) -> str | None:
        """The given name, or that of the input file."""
        if self.name is not None or self.is_piped:
            return self.name
        name = Path(self.source).name
        return name if name.isprintable() and len(name) <= MAX_NAME_CHARS else None

    @property
    def source_name(self) -> str:
        """The name of the input in messages."""
        return "standard input" if self.source == _STDIN else self.source

    @property
    def source_path(self) -> Path:
        """The path of the input, to read it once."""
        return Path("/dev/stdin") if self.source == _STDIN else Path(self.source).absolute()

    @property
    def is_piped(self) -> bool:
        """Tell whether the input can be read only once, such as a pipe or a terminal."""
        try:
            mode = self.source_path.stat().st_mode
        except OSError:  # opening it reports the error
            return self.source == _STDIN
        return self.source == _STDIN or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    @property
    def files(self) -> Files:
        answers = self.output.absolute()
        errors = self.errors.absolute() if self.errors is not None else build_errors_path(answers)
        spooled = self.is_piped
        spool = answers.with_name(f"{answers.name}.darkq-input")
        source = spool if spooled else self.source_path
        return Files(source=source, answers=answers, errors=errors, spooled=spooled)


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


def run(arguments: BatchArguments, *, dry_run: bool) -> None:
    """Run a batch, or resume the one that was started with the same arguments."""
    check_name("name", arguments.name)
    arguments.input.check()
    if dry_run:
        _dry_run(arguments)
        return
    files = arguments.files
    with _translate_os_errors(files.answers):
        files.check()
        _run(arguments, files)


def _run(arguments: BatchArguments, files: Files) -> None:
    with _open_state(files.state) as file:
        state = file.load()
        if state is not None and state.complete and not _has_output(files):
            file.reset()  # its outputs were deleted, to start again
            state = None
        if state is None:
            state = _start(file, arguments)
        else:
            _check_same(state, arguments)
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
        source = state.plan.files.source
        if not state.complete and _read_fingerprint(source) != state.plan.fingerprint:
            raise _build_changed_problem(source)
        _run_to_end(file, state)


def retry(batch: str, *, ignore_unsupported: bool) -> None:
    """Run the failed lines of a batch again, which is given by its id or its output file."""
    with _open_ended(batch) as (file, state):
        darkq = program.command()
        batch_id = state.checkpoint.batch_id
        if not state.complete:
            raise Problem(
                f"{batch_id} is unfinished", f"To resume it: {darkq} batch resume {batch_id}"
            )
        if _read_fingerprint(state.plan.files.source) != state.plan.fingerprint:
            raise _build_changed_problem(state.plan.files.source)
        state.forget_failed(ignore_unsupported=ignore_unsupported)
        Registry(Settings.load()).remove(batch_id)
        _run_to_end(file, state)


@contextmanager
def _open_ended(batch: str) -> Iterator[tuple[StateFile, State]]:
    """Open the state of a batch whose lines have failed."""
    output = Path(batch).absolute()
    path = output.with_name(f"{output.name}.darkq")
    if not path.exists():
        registry = Registry(Settings.load())
        found = None if output.exists() else registry.find(find_batch_id(batch))
        if found is None:
            raise Problem(
                f"no batch {batch} with failed lines was run here",
                f"To list the batches in Redis: {program.command()} batch list",
            )
        path = found
    with _translate_os_errors(path), _open_state(path) as file:
        state = file.load()
        if state is None:
            raise Problem(f"{path} holds no batch")
        yield file, state


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


def _has_output(files: Files) -> bool:
    return any(path.exists() for path in (files.answers, files.errors))


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


def _dry_run(arguments: BatchArguments) -> None:
    checked = _check_input(arguments.source_path, arguments)
    output.write_one(
        {"lines": checked.lines, "endpoint": checked.endpoint},
        f"{checked.lines:,} lines, all valid; nothing was sent",
    )


def _check_input(path: Path, arguments: BatchArguments) -> CheckedInput:
    with show_checking(path) as report:
        return check(path, arguments.source_name, arguments.format, arguments.output_format, report)


def _start(file: StateFile, arguments: BatchArguments) -> State:
    files = arguments.files
    file.claim(files.errors)
    for path in (files.answers, files.errors):
        if path.exists() and path.stat().st_size:
            raise wrong_usage(
                f"{path} already exists: from a finished batch, or from another program",
                "Choose another name, or delete it to start again.",
            )
    try:
        if files.spooled:
            _spool(arguments, files.source)
        checked = _check_input(files.source, arguments)
        plan = Plan(
            name=arguments.batch_name,
            files=files,
            input=arguments.input,
            output=arguments.output_format,
            columns=checked.columns,
            common=arguments.common,
            ordered=arguments.ordered,
            window=arguments.window,
            endpoint=checked.endpoint,
            lines=checked.lines,
            fingerprint=checked.fingerprint,
        )
        return file.start(plan)
    except BaseException:
        if files.spooled:
            files.source.unlink(missing_ok=True)
        raise


def _spool(arguments: BatchArguments, path: Path) -> None:
    """Copy the input of a pipe to a file, so that a resume can read it again."""
    try:
        source = _stdin() if arguments.source == _STDIN else arguments.source_path.open("rb")
    except OSError as error:
        raise build_read_problem(arguments.source_name, error) from None
    with source:
        if source.isatty():
            messages.say("Type the lines. Ctrl-D on an empty line ends the input.", style="dim")
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as spool:
                # read1 returns after one read of the pipe, so that Python can handle signals.
                while piece := source.read1(_READ_BYTES):
                    spool.write(piece)
                spool.flush()
                os.fsync(spool.fileno())
            sync_directory(path)
        except OSError as error:
            raise Problem(f"cannot write {path}: {error.strerror}") from None


def _stdin() -> BufferedReader:
    return cast(BufferedReader, sys.stdin.buffer)


def _check_same(state: State, arguments: BatchArguments) -> None:
    """Raise `Problem` unless the arguments are those of the batch in the state."""
    plan, batch_id = state.plan, state.checkpoint.batch_id
    words = f"{plan.files.answers} belongs to the unfinished batch {batch_id}"
    hint = f"To resume it: {program.command()} batch resume {batch_id}"
    if state.complete:
        words = f"{plan.files.answers} belongs to batch {batch_id}"
        hint = f"To run its failed lines again: {program.command()} batch retry {batch_id}"
    if plan.files.spooled and arguments.files.spooled:
        given = _read_fingerprint(arguments.source_path)
    elif plan.files.source == arguments.files.source:
        given = _read_fingerprint(arguments.files.source)
    else:
        raise wrong_usage(f"{words}, which has another input", hint)
    if given != plan.fingerprint:
        raise _build_changed_problem(plan.files.source)
    if (plan.files, plan.format, plan.output, plan.ordered) != (
        arguments.files,
        arguments.format,
        arguments.output_format,
        arguments.ordered,
    ):
        raise wrong_usage(f"{words}, which has other options", hint)


def _read_fingerprint(path: Path) -> Fingerprint:
    with open_input(path) as source:
        source.read_to_end()
        return source.fingerprint


def _build_changed_problem(source: Path) -> Problem:
    return wrong_usage(
        f"{source} has changed since the start of the batch",
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
