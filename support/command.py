"""The real `darkq` command in processes of its own, in a home that is nobody else's."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from support import forked
from support.forked import COMMAND, Call, Process

EXIT_TIMEOUT_S = 60.0
INTERPRETED = (sys.executable, "-m", "darkq_cli")


class Done(NamedTuple):
    """What became of a command."""

    code: int
    out: bytes
    err: str

    @property
    def line(self) -> str:
        """The only line on stdout."""
        (line,) = self.out.decode().splitlines()
        return line

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Running:
    """A command that runs. What it has written so far can be looked at."""

    def __init__(self, process: Process, out: Path, err: Path) -> None:
        self._process = process
        self._out = out
        self._err = err

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def out(self) -> bytes:
        return self._out.read_bytes()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def says(self, words: str) -> bool:
        """Tell whether stderr has these words. Fails when the command has ended without."""
        ended = self.has_ended
        found = words in self.err
        assert found or not ended, f"it ended without saying {words!r}: {self.err}"
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def done(self, timeout_s: float = EXIT_TIMEOUT_S) -> Done:
        """Wait for the end."""
        code = self._process.wait(timeout_s)
        return Done(code, self.out, self.err)

    def kill(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(EXIT_TIMEOUT_S)


class Darkq:
    """Starts `darkq` commands that share a home, and ends those that are left."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.state = home / "state"
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "DARKQ_STATE_DIR": str(self.state),
            "TERM": "xterm-256color",
            **{f"DARKQ_{name.upper()}": value for name, value in settings.items()},
        }
        self._started: list[Running] = []
        self._numbers = itertools.count()

    def start(
        self,
        *arguments: str,
        stdin: bytes = b"",
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Running:
        """Start `darkq`, or another command; its output goes to files.

        What starts processes of its own has an interpreter of its own too, so that they are found.
        """
        command = command or (INTERPRETED if {"up", "demo"} & set(arguments[:1]) else ())
        number = next(self._numbers)
        out, err = self.home / f"{number}.out", self.home / f"{number}.err"
        typed = self.home / f"{number}.in"
        typed.write_bytes(stdin)
        with out.open("wb") as to_out, err.open("wb") as to_err, typed.open("rb") as from_in:
            names = {**self.environment, **(environment or {})}
            files = from_in.fileno(), to_out.fileno(), to_err.fileno()
            process = (
                subprocess.Popen(
                    [*command, *arguments],
                    env=names,
                    cwd=self.home,
                    stdin=from_in,
                    stdout=to_out,
                    stderr=to_err,
                )
                if command
                else forked.start(Call(COMMAND, arguments, names, str(self.home)), *files)
            )
        self._started.append(Running(process, out, err))
        return self._started[-1]

    def __call__(
        self,
        *arguments: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command to its end."""
        return self.start(*arguments, stdin=stdin, environment=environment).done()

    def typed(self, line: str) -> Done:
        """Run what a command printed to be typed."""
        return self.start(command=("/bin/sh", "-c", line)).done()

    def end(self) -> None:
        """End what still runs, and what that has started."""
        for running in self._started:
            running.kill()
        while left := processes_of(self.state):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def processes_of(state: Path) -> set[int]:
    """Find the processes that live now and belong to a state directory's commands or server."""
    wanted = os.fsencode(state)
    found = set()
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            texts = [(directory / name).read_bytes() for name in ("environ", "cmdline")]
        except OSError:  # it has ended meanwhile
            continue
        if any(wanted in text for text in texts):
            found.add(int(directory.name))
    return found
