"""Processes of darkq that start at once: one process has imported all of it, and forks for each.

Half a second of each start of Python goes to imports, and the tests start hundreds of commands. A
forked process is like any other: it has its own environment, folder and descriptors, and can be
signalled, stopped and killed. Three things differ from a fresh interpreter, so tests about these
start one: the loaded modules, the memory, and what /proc says of its beginning.

    pytest ──start()──► the forker ──fork──► darkq
       └─────◄── a socket per process: its pid, then how it ended

Where the kernel has no pidfd, each has an interpreter of its own, as in production.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

COMMAND = "darkq_cli.main"
PRELOADED = (
    *("darkq_worker.main", "darkq_gateway.serve", "rich.table"),
    *(f"darkq_cli.{room}" for room in ("app", "batch.runner", "batch.start", "terminal.reading")),
)
_lock = threading.Lock()


class Call(NamedTuple):
    """A program to run: the module whose `main` it is, and what its process is to have."""

    main: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    own_terminal: bool = False
    """Its standard input is to be the terminal that controls it."""


class ForkedProcess:
    """A process that the forker has started, in the words of `subprocess.Popen`."""

    def __init__(self, line: socket.socket) -> None:
        self.pid = int.from_bytes(_receive(line, 4), "big")
        assert self.pid, "the forker has ended"
        self.returncode: int | None = None
        self._line = line
        self._one_reads = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code if it has ended: minus the number of the signal, if one ended it."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None and not select.select([self._line], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"darkq {self.pid}", timeout or 0)
        with self._one_reads:
            if self.returncode is None:
                status = int.from_bytes(_receive(self._line, 4), "big")
                self.returncode = os.waitstatus_to_exitcode(status)
                self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)


Process = ForkedProcess | subprocess.Popen[bytes]


def start(call: Call, stdin: int, stdout: int, stderr: int) -> Process:
    """Start a program of darkq, in the way that is quickest here."""
    of_its_own = {
        n for n, value in call.environment.items() if value and value != os.environ.get(n)
    }
    if not hasattr(os, "pidfd_open") or any(map(_is_read_at_start, of_its_own)):
        return start_interpreter(call, stdin, stdout, stderr)
    line = socket.socket(socket.AF_UNIX)
    line.connect(str(forker()))
    message = json.dumps(call).encode()
    socket.send_fds(line, [len(message).to_bytes(4, "big")], [stdin, stdout, stderr])
    line.sendall(message)
    return ForkedProcess(line)


def start_interpreter(
    call: Call, stdin: int, stdout: int, stderr: int, *, prelude: str = ""
) -> subprocess.Popen[bytes]:
    """Start a program of darkq in an interpreter of its own, which runs `prelude` first."""
    code = f"{prelude}\nfrom {call.main} import main; main()"
    if call.own_terminal:
        code = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *call.arguments],
        env=call.environment,
        cwd=call.folder,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=call.own_terminal,
    )


def _is_read_at_start(name: str) -> bool:
    """Tell whether a variable is read when an interpreter starts."""
    return name.startswith(("PYTHON", "LANG", "LC_", "LD_"))


def forker(*modules: str) -> Path:
    """Return the address of the forker of this process that has imported these modules too.

    A call is its length in four bytes, with three descriptors, then JSON. Two replies of four bytes
    follow: the pid, and how the process ended.
    """
    with _lock:
        return _start_forker(modules)


@cache
def _start_forker(modules: tuple[str, ...]) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="darkq-fork-")
    address = Path(folder.name) / "door"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(address))
        door.listen(64)
        environment = {n: value for n, value in os.environ.items() if _is_read_at_start(n)}
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(door.fileno()), *modules],
            pass_fds=[door.fileno()],
            stdin=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parents[1],
        )

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        folder.cleanup()

    atexit.register(end)
    return address


def _receive(line: socket.socket, count: int) -> bytes:
    """Receive so many bytes; zeros where the forker has ended."""
    received = b""
    while len(received) < count and (piece := line.recv(count - len(received))):
        received += piece
    return received


# What follows runs in the forker.


def serve(door: socket.socket) -> Call:
    """Fork for each call. Returns in each of those processes, and in no other."""
    selector = selectors.DefaultSelector()
    selector.register(door, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    calls: dict[int, tuple[int, socket.socket]] = {}  # by pidfd: the pid, and who waits for its end
    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                os._exit(0)
            if key.fd in calls:
                pid, line = calls.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                with line, suppress(OSError):
                    line.sendall(os.waitpid(pid, 0)[1].to_bytes(4, "big"))
                continue
            line, _address = door.accept()
            size, descriptors, *_flags = socket.recv_fds(line, 4, 3)
            call = Call(*json.loads(_receive(line, int.from_bytes(size, "big"))))
            pid = os.fork()
            if pid == 0:
                selector.close()
                for pidfd, (_pid, other) in calls.items():
                    os.close(pidfd)
                    other.close()
                door.close()
                line.close()
                _become(call, descriptors)
                return call
            for descriptor in descriptors:
                os.close(descriptor)
            line.sendall(pid.to_bytes(4, "big"))
            pidfd = os.pidfd_open(pid)
            calls[pidfd] = pid, line
            selector.register(pidfd, selectors.EVENT_READ)


def _become(call: Call, descriptors: Sequence[int]) -> None:
    """Take over what the process is to have."""
    if call.own_terminal:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if call.own_terminal:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(call.environment)
    os.chdir(call.folder)
    sys.argv = ["darkq", *call.arguments]
    sys.modules["__main__"].__package__ = ""  # or the usage line would name this module
    sys.stdin, sys.stdout, sys.stderr = (_open(number) for number in range(3))
    gc.enable()


def _open(number: int) -> io.TextIOWrapper:
    """Open a standard stream as an interpreter does at its start."""
    first: Any = (sys.__stdin__, sys.__stdout__, sys.__stderr__)[number]
    raw: Any = io.FileIO(number, "rb" if number == 0 else "wb", closefd=False)
    buffered: Any = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
    is_read_by_lines = number == 2 or raw.isatty()
    return io.TextIOWrapper(
        buffered,
        first.encoding,
        first.errors,
        line_buffering=is_read_by_lines,
        write_through=number == 1 and bool(os.environ.get("PYTHONUNBUFFERED")),
    )


_exit_codes: list[int] = []


def _run(main: Callable[[], object]) -> None:
    """Run a program, and note its exit code for `_end_at_once`."""
    try:
        main()
        _exit_codes.append(0)
    except SystemExit as end:
        _exit_codes.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except Exception:
        _exit_codes.append(1)
        raise


def _end_at_once() -> None:
    """End without taking each module apart, which takes Python 0.03 s. The last of `atexit`.

    What was left unclosed says so before. Python itself reports output that cannot be written.
    """
    if _exit_codes:
        gc.collect()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_exit_codes[0] & 0xFF)


if __name__ == "__main__":
    atexit.register(_end_at_once)
    for module in (*PRELOADED, *sys.argv[2:]):
        import_module(module)
    gc.collect()
    gc.freeze()
    _run(import_module(serve(socket.socket(fileno=int(sys.argv[1]))).main).main)
