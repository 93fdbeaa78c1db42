"""How a batch begins, and how it is taken up again: its files, its check, its state."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from darkq import DarkqError, Settings
from darkq.batches.lines import ForAllLines
from darkq.protocol.job import Job, check_name
from darkq_cli.batch import progress, runner
from darkq_cli.batch.files import sync_directory
from darkq_cli.batch.ledger import Registry
from darkq_cli.batch.plan import Files, Plan, errors_beside
from darkq_cli.batch.source import Checked, Fingerprint, Form, check, reading, unreadable
from darkq_cli.batch.state import State, StateFile
from darkq_cli.batch.summary import Summary
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.interrupts import undisturbed
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem

_STDIN = "-"
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What `darkq batch run` is asked for. `source` may be `-`, standard input, or a pipe."""

    source: str
    output: Path
    errors: Path | None
    ordered: bool
    is_text: bool
    name: str | None
    window: int
    common: ForAllLines

    @property
    def form(self) -> Form:
        return Form(self.is_text or self._unpacked_name.endswith(".txt"), self.common)

    @property
    def is_table(self) -> bool:
        return not self.is_text and self._unpacked_name.endswith((".csv", ".tsv"))

    @property
    def _unpacked_name(self) -> str:
        return self.source.lower().removesuffix(".gz").removesuffix(".zst")

    @property
    def source_name(self) -> str:
        """What the input is called when talking to people."""
        return "standard input" if self.source == _STDIN else self.source

    @property
    def source_path(self) -> Path:
        """Where the input is, to be read once."""
        return Path("/dev/stdin") if self.source == _STDIN else Path(self.source).absolute()

    @property
    def is_piped(self) -> bool:
        """Tell whether the input can be read only once, as a pipe or a terminal can."""
        try:
            mode = self.source_path.stat().st_mode
        except OSError:  # told when it is opened
            return self.source == _STDIN
        return self.source == _STDIN or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    @property
    def files(self) -> Files:
        answers = self.output.absolute()
        errors = self.errors.absolute() if self.errors is not None else errors_beside(answers)
        spooled = self.is_piped
        spool = answers.with_name(f"{answers.name}.darkq-input")
        source = spool if spooled else self.source_path
        return Files(source=source, answers=answers, errors=errors, spooled=spooled)


def for_all_lines(**options: Any) -> ForAllLines:
    """Check what all lines have in common. Raises `InvalidJob`."""
    Job.create("?", **options)
    return ForAllLines(**options)


def run(wish: Wish, *, dry_run: bool, as_json: bool) -> None:
    """Run a batch, or go on with the one that was begun with the same words."""
    check_name("name", wish.name)
    if dry_run:
        _dry_run(wish, as_json=as_json)
        return
    files = wish.files
    with _told_of_disks(files.answers):
        files.check()
        _run(wish, files, as_json=as_json)


def _run(wish: Wish, files: Files, *, as_json: bool) -> None:
    with _held(files.state) as file:
        state = file.load()
        if state is None:
            state = _begin(file, wish)
        else:
            _is_same(state, wish)
        _go_on(file, state, as_json=as_json)


def resume(batch_id: str, *, as_json: bool) -> None:
    """Go on with a batch that was begun on this machine."""
    path = Registry(Settings.load()).find(batch_id)
    if path is None:
        raise Problem(
            f"no unfinished batch {batch_id} was begun here",
            f"To have what is there of it: {program.command()} batch results {batch_id} -o FILE",
        )
    with _told_of_disks(path), _held(path) as file:
        state = file.load()
        if state is None or state.place.batch_id != batch_id:
            raise Problem(f"{path} is of another batch now")
        source = state.plan.files.source
        if not state.complete and _fingerprint(source) != state.plan.fingerprint:
            raise _changed(source)
        _go_on(file, state, as_json=as_json)


@contextmanager
def _told_of_disks(path: Path) -> Iterator[None]:
    """Raise `Problem` for what a disk or a share refuses."""
    try:
        yield
    except DarkqError:  # some are OSErrors, and say it better
        raise
    except OSError as error:
        words = f"cannot use {error.filename or path}: {error.strerror or type(error).__name__}"
        raise Problem(words) from None


@contextmanager
def _held(path: Path) -> Iterator[StateFile]:
    """Hold a state file; one in which no batch has begun is not left behind."""
    file = None
    try:
        with undisturbed():  # interrupted in between, it would be left behind
            file = StateFile(path)
        yield file
    finally:
        if file is not None:
            if file.is_empty:
                file.delete()
            file.close()


def _dry_run(wish: Wish, *, as_json: bool) -> None:
    checked = _checked(wish.source_path, wish)
    if as_json:
        output.write_json({"lines": checked.lines, "endpoint": checked.endpoint})
    else:
        output.write_line(f"{checked.lines:,} lines, all of them right; nothing was sent")


def _checked(path: Path, wish: Wish) -> Checked:
    if wish.is_table:
        raise Problem(
            f"{wish.source_name} is a table, and not JSON lines",
            "Send its rows as examples/batch_from_csv.py does; or use --text, where each line "
            "is a prompt.",
            exit_code=USAGE_EXIT_CODE,
        )
    with progress.checking(path) as tell:
        return check(path, wish.source_name, wish.form, tell)


def _begin(file: StateFile, wish: Wish) -> State:
    files = wish.files
    file.claim(files.errors)
    for path in (files.answers, files.errors):
        if path.exists() and path.stat().st_size:
            raise Problem(
                f"{path} is there already: of a batch that is over, or of something else",
                "Choose another name, or delete it to begin anew.",
                exit_code=USAGE_EXIT_CODE,
            )
    try:
        if files.spooled:
            _spool(wish, files.source)
        checked = _checked(files.source, wish)
        plan = Plan(
            name=wish.name,
            files=files,
            is_text=wish.form.is_text,
            common=wish.common,
            ordered=wish.ordered,
            window=wish.window,
            endpoint=checked.endpoint,
            lines=checked.lines,
            fingerprint=checked.fingerprint,
        )
        return file.begin(plan)
    except BaseException:
        if files.spooled:
            files.source.unlink(missing_ok=True)
        raise


def _spool(wish: Wish, path: Path) -> None:
    """Keep an input that is piped in, so that it can be read again and the batch taken up."""
    try:
        source = _stdin() if wish.source == _STDIN else wish.source_path.open("rb")
    except OSError as error:
        raise unreadable(wish.source_name, error) from None
    with source:
        if source.isatty():
            messages.say("The lines, please; Ctrl-D on an empty line ends them.", style="dim")
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as spool:
                # One read of the pipe at a time: Python looks for signals between two.
                while piece := source.read1(_PIECE_BYTES):
                    spool.write(piece)
                spool.flush()
                os.fsync(spool.fileno())
            sync_directory(path)
        except OSError as error:
            raise Problem(f"cannot write {path}: {error.strerror}") from None


def _stdin() -> BufferedReader:
    return cast(BufferedReader, sys.stdin.buffer)


def _is_same(state: State, wish: Wish) -> None:
    """Raise `Problem` unless a command goes on with what another began."""
    plan, batch_id = state.plan, state.place.batch_id
    own = f"To go on with it: {program.command()} batch resume {batch_id}"
    words = f"{plan.files.answers} is of the unfinished batch {batch_id}"
    if plan.files.spooled and wish.files.spooled:
        given = _fingerprint(wish.source_path)
    elif plan.files.source == wish.files.source:
        given = _fingerprint(wish.files.source)
    else:
        raise Problem(f"{words}, which has another input", own, exit_code=USAGE_EXIT_CODE)
    if given != plan.fingerprint:
        raise _changed(plan.files.source)
    if (plan.files, plan.form, plan.ordered) != (wish.files, wish.form, wish.ordered):
        raise Problem(f"{words}, which has other options", own, exit_code=USAGE_EXIT_CODE)


def _fingerprint(path: Path) -> Fingerprint:
    with reading(path) as source:
        source.to_the_end()
        return source.fingerprint


def _changed(source: Path) -> Problem:
    return Problem(
        f"{source} has changed since the batch began",
        "Put it back, or begin another batch with another -o.",
        exit_code=USAGE_EXIT_CODE,
    )


def _go_on(file: StateFile, state: State, *, as_json: bool) -> None:
    registry = Registry(Settings.load())
    file.claim(state.plan.files.errors)
    if state.place.batch_id:  # a kill may have come before it was remembered
        registry.add(state.place.batch_id, state.plan.files.state)
    if not state.complete:
        runner.run(state, registry)
    summary = Summary.of(state)
    if state.complete:
        if state.plan.files.spooled:
            state.plan.files.source.unlink(missing_ok=True)
        file.delete()
        registry.remove(summary.batch_id)
    if as_json:
        output.write_json(summary)
    else:
        output.write_facts(summary.facts())
    summary.raise_if_failed()
