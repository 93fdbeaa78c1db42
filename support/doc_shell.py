"""What runs the blocks of a document: one shell and one Python, from the first block to the last.

The shell's variables and the Python's names last from block to block, as they do for a reader who
types them. A command that serves (`darkq up`) stays in the background, as in another terminal, and
is waited for until it says that it is ready.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from support.command import processes_of
from support.doc_darkq import PYTHON
from support.waiting import wait_until

COMMAND_TIMEOUT_S = 40.0
_MARK = "end-of-a-command"

READY = {
    r"darkq up\b": "In another terminal",
    r"darkq worker$": "worker ready",
    r"darkq gateway$": "listening on",
    r"darkq local-darkai\b": "local DarkAI:",
    r"uvicorn\b": "running on",
    r"flask\b.* run\b": "Running on",
}


class Done(NamedTuple):
    code: int
    output: str


class Shell:
    """A bash in a folder. Its commands see neither this process's environment nor its input."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._bash: asyncio.subprocess.Process | None = None
        self._python: asyncio.subprocess.Process | None = None
        self._served: dict[str, tuple[int, Path]] = {}

    async def run(self, command: str) -> Done:
        """Run a command to its end; stdout and stderr come as one."""
        if self._bash is None:
            self._bash = await self._start("bash", "--noprofile", "--norc")
        line = f"{{ {command}\n}} </dev/null\nprintf '\\n%s %d\\n' {_MARK} $?\n"
        return await _say(self._bash, line)

    async def serve(self, command: str) -> str:
        """Start a server, in place of the one that the same words have started; what it said."""
        ready = next(word for name, word in READY.items() if re.search(name, _bare(command)))
        command, in_background = re.subn(r" *&$", "", command)
        name = _bare(command)
        if name in self._served and not in_background:
            await self.interrupt(name)
        log = self._folder.parent / f"server-{len(list(self._folder.parent.glob('server-*')))}.log"
        log.touch()
        _, pid = await self.run(f"set -m; {command} >{log} 2>&1 & echo $!; set +m")
        self._served[name] = int(pid.split()[-1]), log

        def says() -> bool:
            assert _lives(self._served[name][0]), f"it has ended: {log.read_text()}"
            return ready in log.read_text()

        await wait_until(f"{name} says {ready!r}", says, COMMAND_TIMEOUT_S)
        return log.read_text()

    async def interrupt(self, command: str) -> str:
        """Press Ctrl-C where this server runs, and wait for its end; all that it said."""
        pid, log = self._served.pop(_bare(command))
        await self.run(f"kill -INT {pid}; wait {pid}")
        return log.read_text()

    async def python(self, code: str, name: str) -> Done:
        """Run Python, with `await` wherever one likes; `client` and darkq's names are there."""
        if self._python is None:
            self._python = await self._start(PYTHON, _MARK)
        return await _say(self._python, json.dumps([code, name]) + "\n")

    async def _start(self, *command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command,
            env=self._environment,
            cwd=self._folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def end(self) -> None:
        """End both, and all that they have started."""
        home = self._folder.parent  # which their environment names
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in processes_of(home):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            with suppress(AssertionError):
                await wait_until("all have ended", lambda: not processes_of(home))
        for process in filter(None, [self._python, self._bash]):
            await process.communicate(b"")  # which closes what it reads from


def serves(command: str) -> bool:
    """Tell whether a command is a server, which ends only when it is told to."""
    return any(re.search(name, _bare(command)) for name in READY)


def _bare(command: str) -> str:
    """A command without assignments before it, and without `&`."""
    return re.sub(r" *&$", "", re.sub(r"^(\w+=\S* +)+", "", command))


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


async def _say(process: asyncio.subprocess.Process, line: str) -> Done:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line.encode())
    output = ""
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            while data := await process.stdout.readline():
                text = data.decode()
                if text.startswith(_MARK):
                    return Done(int(text.split()[1]), output)
                output += text
    except TimeoutError:
        raise AssertionError(f"not done after {COMMAND_TIMEOUT_S:g} s:\n{line}\n{output}") from None
    raise AssertionError(f"it has ended:\n{line}\n{output}")
