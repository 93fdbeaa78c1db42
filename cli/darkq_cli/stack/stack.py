"""A local DarkAI and workers, as processes around one Redis: what `up` and `demo` start.

They are stopped in this order: workers first, so that they can finish what they began, then
the local DarkAI that they ask. When this process is killed instead, lifelines see to the same:
a worker's ends with this process, the local DarkAI's with the last of the workers.
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
from darkq_cli.stack.child import Lifeline
from darkq_cli.stack.processes import Child, OnLine, first_death
from darkq_cli.terminal import messages
from darkq_cli.terminal.options import Model
from darkq_cli.terminal.problems import Problem, require

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0

DARKAI = "local DarkAI"

_POLL_S = 0.05
_READY = re.compile(r"local DarkAI: (?P<model>.+) at (?P<url>http\S+)")

# The small model answers two at a time. Jobs beyond a few would only wait inside it, and fail
# when that takes too long; in the queue they may wait for as long as they like.
_SMALL_MODEL_JOBS = {"worker_jobs": "4", "worker_reserved_interactive": "1"}

T = TypeVar("T")


class DarkAI(NamedTuple):
    """The local DarkAI that runs: what it answers with, and where."""

    model: str
    url: str


class Stack:
    """The processes. Start them inside `running`."""

    def __init__(self, settings: Settings, on_line: OnLine) -> None:
        self.workers: list[Child] = []
        self._settings = settings
        self._on_line = on_line
        self._darkai: Child | None = None
        self._darkai_line = Lifeline.make()
        self._workers_line = Lifeline.make()
        self._ready: asyncio.Future[DarkAI] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._hurried = False

    async def start_darkai(self, model: Model, *, port: int = 0) -> DarkAI:
        """Start the local DarkAI, and wait until it listens.

        Raises `Problem` when it ends before that, or takes a minute.
        """
        self._darkai = await Child.start(
            DARKAI,
            ["local-darkai", "--model", model, "--port", str(port)],
            environment=environment(self._settings),
            lifeline=self._darkai_line.end,
            on_line=self._hear,
        )
        return await _started(self._darkai, self.unless_dead(self._ready))

    async def start_workers(
        self, count: int, client: Client, changes: Mapping[str, str | None]
    ) -> None:
        """Start workers with these changes to the settings; wait until Redis knows of them.

        Raises `Problem` when one ends before that, or takes a minute.
        """
        for number in range(1, count + 1):
            child = await Child.start(
                f"worker {number}" if count > 1 else "worker",
                ["worker"],
                environment=environment(self._settings, **changes),
                lifeline=self._workers_line.end,
                holds=[self._darkai_line.hold],
                on_line=self._hear,
            )
            self.workers.append(child)
        await _started(self.workers[-1], self.unless_dead(_alive(client, self.workers)))

    async def unless_dead(self, work: Awaitable[T]) -> T:
        """Do the work and return what it returns.

        Raises `Problem`, and cancels the work, when one of the processes ends first.
        """
        task = asyncio.ensure_future(work)
        death = asyncio.create_task(first_death(self._children()))
        try:
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise death.result()
            return task.result()
        finally:
            task.cancel()
            death.cancel()
            await asyncio.wait([task, death])

    def _children(self) -> list[Child]:
        return [*self.workers, *([self._darkai] if self._darkai else [])]

    def _hear(self, name: str, line: str) -> None:
        if name == DARKAI and not self._ready.done() and (ready := _READY.search(line)):
            self._ready.set_result(DarkAI(ready["model"], ready["url"]))
        self._on_line(name, line)

    async def stop(self) -> None:
        """Stop all processes, those first that depend on the others."""
        self._stopping = True
        grace_s = self._settings.worker_shutdown_grace_s + STOP_TIMEOUT_S
        if self.workers:
            await asyncio.gather(*(worker.stop(grace_s) for worker in self.workers))
        if self._darkai:
            await self._darkai.stop(STOP_TIMEOUT_S)
        self._darkai_line.close()
        self._workers_line.close()

    def interrupt(self, owner: asyncio.Task[object]) -> None:
        """Take a Ctrl-C: the first ends the owner's task, the second the patience with workers."""
        messages.leave_line()
        if not self._stopping:
            self._stopping = True
            owner.cancel()
            return
        if not self._hurried:
            messages.say("hurrying: jobs that still run are handed back")
        for child in self._children():
            child.send(signal.SIGKILL if self._hurried else signal.SIGTERM)
        self._hurried = True


@asynccontextmanager
async def running(settings: Settings, on_line: OnLine) -> AsyncIterator[Stack]:
    """Have a stack for the length of the block. Ctrl-C cancels the task that is in it."""
    stack = Stack(settings, on_line)
    loop, owner = asyncio.get_running_loop(), asyncio.current_task()
    assert owner is not None  # noqa: S101  a context manager is entered in a task
    loop.add_signal_handler(signal.SIGINT, stack.interrupt, owner)
    try:
        yield stack
    finally:
        await stack.stop()
        loop.remove_signal_handler(signal.SIGINT)


def check_installed(model: Model | None) -> None:
    """Raise `Problem` when something is missing that a stack needs."""
    require("worker", "arq", "aiohttp")
    if model == "smollm2":
        from darkq_local.models.base import ModelNotInstalled
        from darkq_local.models.smollm2 import find_gguf

        try:
            find_gguf()
        except ModelNotInstalled as error:
            raise Problem(str(error)) from None


def environment(settings: Settings, **changes: str | None) -> dict[str, str]:
    """Return the environment of a process with these settings. A change to None takes one away.

    It holds what `.env` says too: the processes do not read that file, since a line in it could
    not be taken away.
    """
    values = {name: _text(getattr(settings, name)) for name in settings.model_fields_set}
    wanted = {**values, "state_dir": str(settings.state_dir.resolve()), **changes}
    inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith("DARKQ_")}
    named = {f"DARKQ_{name.upper()}": value for name, value in wanted.items() if value is not None}
    return {**inherited, **named}


def _text(value: object) -> str:
    if isinstance(value, dict):
        return to_json(value)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def for_local(settings: Settings, darkai: DarkAI, model: Model) -> dict[str, str | None]:
    """Return what a worker's settings must be for it to ask the local DarkAI."""
    bounds = _SMALL_MODEL_JOBS if model == "smollm2" else {}
    unset = {name: value for name, value in bounds.items() if name not in settings.model_fields_set}
    return {**unset, "darkai_url": darkai.url, "darkai_proxy": None}


async def _started(child: Child, ready: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            return await ready
    except TimeoutError:
        lines = "\n".join(child.last_lines)
        raise Problem(f"the {child.name} is not ready after {START_TIMEOUT_S:g} s", lines) from None


async def _alive(client: Client, workers: Sequence[Child]) -> None:
    wanted = {f"{socket.gethostname()}:{worker.pid}" for worker in workers}
    while True:
        alive = {worker.rpartition(":")[0] for worker in await client.workers()}
        if wanted <= alive:
            return
        await asyncio.sleep(_POLL_S)
