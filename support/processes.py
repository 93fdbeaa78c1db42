"""Workers and gateways as real processes, for real signals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

from darkq import Settings
from support import forked
from support.forked import Call, Process

EXIT_TIMEOUT_S = 60.0


class WorkerProcess:
    """A worker in a process of its own; its log goes to a file.

    `prelude` is Python that the process runs first. With `is_forked` it starts at once; how much
    memory it has had is then not its own doing.
    """

    _main = "darkq_worker.main"
    _ready = "worker ready"

    def __init__(
        self, settings: Settings, log: Path, *, prelude: str = "", is_forked: bool = False
    ) -> None:
        assert settings.redis_url is not None
        environment = {
            f"DARKQ_{name.upper()}": json.dumps(value) if isinstance(value, dict) else str(value)
            for name, value in settings.model_dump(exclude_unset=True).items()
        }
        environment["DARKQ_REDIS_URL"] = settings.redis_url.get_secret_value()
        self.log = log
        call = Call(self._main, (), os.environ | environment, str(log.parent))
        with log.open("wb") as output, open(os.devnull) as nothing:
            files = nothing.fileno(), output.fileno(), output.fileno()
            self._process: Process = (
                forked.start(call, *files)
                if is_forked
                else forked.start_interpreter(call, *files, prelude=prelude)
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has ever held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def wait(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        """Wait for the end and return the exit code; this process's servers go on meanwhile."""
        return await asyncio.to_thread(self._process.wait, timeout_s)

    @property
    def ready(self) -> bool:
        """Tell whether it has said that it is ready."""
        assert self._process.poll() is None, self.log.read_text()
        return self._ready in self.log.read_text()

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.alive:
            self._process.kill()  # works on a stopped process too
            self._process.wait(EXIT_TIMEOUT_S)


class GatewayProcess(WorkerProcess):
    """A gateway, likewise. Its settings should have port 0."""

    _main = "darkq_gateway.serve"
    _ready = "listening on http"

    @property
    def url(self) -> str:
        """Where it listens, once it is ready."""
        found = re.search(r"listening on (http://\S+)", self.log.read_text())
        assert found is not None
        return found[1]
