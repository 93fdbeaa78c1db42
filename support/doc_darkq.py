"""`darkq`, quickly: one process has imported everything, and forks for each command of a document.

The same for its Python, `doc-python` (`doc_python`).

Documents call the command a hundred times, and half a second of each call is spent on imports. So
a reader's PATH begins with a `darkq` that hands its arguments, environment, folder and descriptors
to that process, and takes over the exit code. What serves is started as ever: it is sent signals.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

PYTHON = "doc-python"
PRELOADED = (
    *("aiohttp", "openai", "rich.table", "support.doc_python"),
    *(f"darkq_cli.{room}" for room in ("app", "batch.runner", "batch.start", "terminal.reading")),
)
_CALLER = """#!{python} -ISE
import json, os, socket, sys
if sys.argv[1:2] in (["up"], ["worker"], ["gateway"], ["local-darkai"], ["demo"], ["top"]):
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    called = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    call = json.dumps([called, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(line, [len(call).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(call)
    sys.exit(int.from_bytes(line.recv(1) or b"\\1", "big"))
"""


@contextmanager
def quick_darkq(folder: Path) -> Iterator[Path]:
    """Run the process; yields a folder for PATH with its `darkq`."""
    address = folder / "darkq.sock"
    real = Path(sys.executable).with_name("darkq")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    caller = bin_folder / "darkq"
    caller.write_text(_CALLER.format(python=sys.executable, real=str(real), address=str(address)))
    caller.chmod(0o755)
    (bin_folder / PYTHON).symlink_to(caller)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(address))
        door.listen(16)
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(door.fileno())],
            pass_fds=[door.fileno()],
            cwd=Path(__file__).parents[1],
        )
    try:
        yield bin_folder
    finally:
        process.terminate()
        process.wait(10)


def _serve(door: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        line, _ = door.accept()
        if os.fork() == 0:
            door.close()
            _answer(line)
        line.close()


def _answer(line: socket.socket) -> None:
    """Run one command, as the process that it would have been."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, descriptors, *_ = socket.recv_fds(line, 4, 3)
    call = b""
    while len(call) < int.from_bytes(size, "big"):
        call += line.recv(1 << 16)
    arguments, environment, folder = json.loads(call)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = arguments
    sys.modules["__main__"].__package__ = ""  # or Usage would name this module
    code = 1
    program = "support.doc_python" if arguments[0] == PYTHON else "darkq_cli.main"
    try:
        import_module(program).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        line.sendall(code.to_bytes(1, "big"))
        os._exit(code)


if __name__ == "__main__":
    for module in PRELOADED:
        import_module(module)
    _serve(socket.socket(fileno=int(sys.argv[1])))
