"""A peer that hangs or fails is a row, and costs no answer. Figures are not looked at here."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.figures import Figures
from benchmarks.peers import QUESTIONS, compare
from benchmarks.peers.asking import DARKQ, ask
from benchmarks.processes import module, upstream


def peer(script: str) -> list[str]:
    """A command that stands in for a peer."""
    return [sys.executable, "-c", script]


ANSWERS = 'print(\'{"chunks": 5.0, "jobs": 2.0}\', flush=True)\n'
CRASHES = 'print(\'{"failure": "ConnectionError: Too many connections"}\'); raise SystemExit(1)\n'
# As SAQ did: nothing more is printed, and a child of it runs on.
HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({path!r}, "w").write(str(child.pid))
time.sleep(600)
"""


async def test_peer_that_hangs_is_killed_with_its_process_group(tmp_path: Path) -> None:
    """Red without a deadline, or if only the process itself is killed."""
    pid_file = tmp_path / "pid"
    asked = await ask(peer(ANSWERS + HANGS.format(path=str(pid_file))), deadline_s=5)
    assert asked.failure == "killed: not done within 5 s"
    assert asked.measures == {"chunks": 5.0, "jobs": 2.0}
    await_end(int(pid_file.read_text()))


def await_end(pid: int) -> None:
    deadline_s = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline_s, f"{pid} still runs"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody has reaped does not."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (ANSWERS + CRASHES, "ConnectionError: Too many connections"),
        (ANSWERS + "raise SystemExit(3)", "ended with 3"),
        (ANSWERS + "print('a warning')", "JSONDecodeError: Expecting value"),
    ],
)
async def test_peer_that_fails_keeps_what_it_has_answered(script: str, failure: str) -> None:
    asked = await ask(peer(script), deadline_s=30)
    assert asked.failure.startswith(failure)
    assert asked.measures == {"chunks": 5.0, "jobs": 2.0}


async def test_peers_that_fail_are_rows_beside_the_others(tmp_path: Path) -> None:
    """Red if a peer that hangs or fails costs a row of the others, or is asked again."""
    sound = peer(ANSWERS)
    stuck = peer(ANSWERS + HANGS.format(path=str(tmp_path / "pid")))
    commands = {DARKQ: sound, "broken": peer(CRASHES), "stuck": stuck, "sound": sound}
    rows = await compare(commands, 2, deadline_s=5)
    found = {(row.question, row.baseline_name): row for row in rows if not row.failure}
    assert [name for question, name in found if question == "one-chunk jobs"] == ["stuck", "sound"]
    assert found["one-chunk jobs", "sound"].baseline == Figures((2.0, 2.0))
    assert found["one-chunk jobs", "stuck"].baseline == Figures((2.0,))
    assert [(row.question, row.failure) for row in rows if row.failure] == [
        ("broken", "ConnectionError: Too many connections"),
        ("stuck", "killed: not done within 5 s"),
    ]


@pytest.mark.slow
async def test_darkq_answers_every_question_that_peers_are_asked() -> None:
    with upstream() as url:
        asked = await ask(module("peers.one_system", DARKQ, url, 0.02), deadline_s=50)
    assert asked.failure == ""
    assert asked.measures.keys() == QUESTIONS.keys()


async def test_answers_of_peers_are_kept_when_darkq_fails() -> None:
    rows = await compare({DARKQ: peer(CRASHES), "sound": peer(ANSWERS)}, 1, deadline_s=15)
    assert [report.cells(row)[:3] for row in rows] == [
        ("chunks through one worker", "none 1/s", "sound: 5.00 1/s"),
        ("one-chunk jobs", "none 1/s", "sound: 2.00 1/s"),
        (DARKQ, "failed: ConnectionError: Too many connections", ""),
    ]
