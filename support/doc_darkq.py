"""`darkq`, quickly: a forker (`support.forked`) runs each command of a document.

The same for its Python, `doc-python` (`doc_python`).

Documents call the command a hundred times, and half a second of each call is spent on imports. So
a reader's PATH begins with a `darkq` that hands its arguments, environment, folder and descriptors
to that process, and takes over the exit code. What serves is started as ever: it is sent signals.
"""

from __future__ import annotations

import sys
from pathlib import Path

from support import forked

PYTHON = "doc-python"
_CALLER = """#!{python} -ISE
import json, os, socket, sys
if sys.argv[1:2] in (["up"], ["worker"], ["gateway"], ["local-darkai"], ["demo"], ["top"]):
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
main = "support.doc_python" if os.path.basename(sys.argv[0]) == {name!r} else "darkq_cli.main"
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    call = json.dumps([main, sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(line, [len(call).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(call)
    _pid, status = line.recv(4), line.recv(4)
    sys.exit(os.waitstatus_to_exitcode(int.from_bytes(status, "big")))
"""


def make_quick_darkq(folder: Path) -> Path:
    """Make a folder for PATH with its `darkq`."""
    address = forked.forker("aiohttp", "openai", "support.doc_python")
    real = Path(sys.executable).with_name("darkq")
    caller = folder / "darkq"
    caller.write_text(
        _CALLER.format(python=sys.executable, real=str(real), address=str(address), name=PYTHON)
    )
    caller.chmod(0o755)
    (folder / PYTHON).symlink_to(caller)
    return folder
