"""Child processes, each pinned to a core, and killed at the end of the block."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from benchmarks.machine import THE_REST, UNDER_TEST, on_core
from darkq_local.server_binary import find_server

_ROOT = Path(__file__).parent.parent
_START_TIMEOUT_S = 10.0

Process = subprocess.Popen[str]


@contextmanager
def child(
    *command: str, role: int = UNDER_TEST, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Run a command in an empty directory; kill it afterwards."""
    with tempfile.TemporaryDirectory(prefix="darkq-bench-") as directory, on_core(role):
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            env=environment_with(environment or {}),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that can import this suite."""
    return {**os.environ, "PYTHONPATH": str(_ROOT), **more}


def module(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this suite."""
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]


def read_line(process: Process) -> str:
    """Wait for a line that a process prints. Raises `RuntimeError` if it ends first."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended with {process.wait()}: {process.args!r}")
    return line.strip()


def go(process: Process) -> None:
    """Send the line for which a process waits."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def measure(*command: str) -> Any:
    """Run a command that waits for a line, measures itself and prints JSON."""
    with child(*command) as process:
        read_line(process)
        go(process)
        return json.loads(read_line(process))


@contextmanager
def upstream() -> Iterator[str]:
    """Run the upstream; yield its URL."""
    with child(*module("upstream"), role=THE_REST) as process:
        yield f"http://127.0.0.1:{read_line(process)}/chat"


@contextmanager
def redis_server() -> Iterator[str]:
    """Run an empty Redis without persistence; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        *(str(find_server().path), "--port", str(port), "--bind", "127.0.0.1"),
        *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
    ]
    with child(*command, role=THE_REST) as process:
        _await_answer(process, port)
        yield f"redis://127.0.0.1:{port}"


def _await_answer(process: Process, port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            with redis.Redis(port=port) as client:
                client.ping()
            return
        except redis.ConnectionError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
