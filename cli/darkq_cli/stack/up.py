"""`darkq up`: Redis, a local DarkAI and workers on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from darkq import Client, Settings
from darkq.settings.embedded_socket import socket_path
from darkq_cli.stack import stack
from darkq_cli.terminal import interrupts, messages, program
from darkq_cli.terminal.options import Model
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.terminal.redis import Reached, redis_of

_LOOK_AT_REDIS_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to start. `model` is None where DARKQ_DARKAI_URL names another DarkAI."""

    model: Model | None
    port: int
    workers: int


def up(*, model: Model | None, port: int | None, workers: int) -> None:
    """Start everything, say how to use it, and run until a signal or a death."""
    settings = Settings.load()
    plan = Plan(model=_local_model(settings, model, port), port=port or 0, workers=workers)
    stack.check_installed(plan.model)
    with redis_of(settings) as redis:
        try:
            interrupts.run(_up(plan, settings, redis))
        except KeyboardInterrupt:
            messages.say("darkq is down; jobs and results are kept")


def _local_model(settings: Settings, model: Model | None, port: int | None) -> Model | None:
    if "darkai_url" not in settings.model_fields_set:
        return model or settings.local_model
    if model is not None or port is not None:
        raise Problem(
            "DARKQ_DARKAI_URL names a DarkAI, so none is started here",
            "Leave out --model and --port, or unset DARKQ_DARKAI_URL.",
            exit_code=USAGE_EXIT_CODE,
        )
    return None


async def _up(plan: Plan, settings: Settings, redis: Reached) -> None:
    began_s = time.monotonic()
    log = _Log()
    async with (
        stack.running(settings, log.forward) as processes,
        Client(settings=redis.settings) as client,
    ):
        upstream, url = _upstreams(settings), None
        changes: dict[str, str | None] = {}
        if plan.model is not None:
            darkai = await processes.start_darkai(plan.model, port=plan.port)
            changes = stack.for_local(settings, darkai, plan.model)
            upstream, url = f"local DarkAI, {darkai.model}, {darkai.url}", darkai.url
        await processes.start_workers(plan.workers, client, changes)
        pids = ", ".join(str(worker.pid) for worker in processes.workers)
        messages.say(f"darkq is up, after {time.monotonic() - began_s:.1f} s", style="bold green")
        messages.say(f"  Redis     {redis.name}")
        messages.say(f"  upstream  {upstream}")
        messages.say(f"  workers   {plan.workers} (pid {pids})")
        _say_what_next(url)
        await processes.unless_dead(_trouble(log, settings))


def _upstreams(settings: Settings) -> str:
    """Name them without their addresses, which may hold secrets."""
    host = urlsplit(settings.darkai_url).hostname or "the one of DARKQ_DARKAI_URL"
    return ", ".join([host] * settings.uses_darkai + sorted(settings.upstreams))


def _say_what_next(darkai_url: str | None) -> None:
    darkq = program.command()
    messages.say("In another terminal:")
    messages.say(f'  {darkq} run "Write a haiku about queues."')
    messages.say(f'  id=$({darkq} enqueue "Write a haiku about queues.")')
    messages.say(f"  {darkq} tail $id")
    messages.say(f"  {darkq} result $id")
    if darkai_url is not None:
        messages.say(f"  DARKQ_DARKAI_URL={darkai_url} {darkq} upstreams")
    messages.say("Ctrl-C stops everything; jobs and results are kept.")


class _Log:
    """Passes on what the processes say, until nobody reads stderr any more."""

    def __init__(self) -> None:
        self.unread = asyncio.Event()

    def forward(self, name: str, line: str) -> None:
        """Write a line on stderr, with the name of the process that it comes from."""
        try:
            sys.stderr.write(f"{name} | {messages.harmless(line)}\n")
            sys.stderr.flush()
        except BrokenPipeError:
            self.unread.set()


async def _trouble(log: _Log, settings: Settings) -> None:
    """Wait until it makes no sense to go on, and raise what to say of that."""
    while True:
        try:
            async with asyncio.timeout(_LOOK_AT_REDIS_S):
                await log.unread.wait()
            raise BrokenPipeError
        except TimeoutError:
            if settings.redis_url is None:
                await _look_at_redis(settings)


async def _look_at_redis(settings: Settings) -> None:
    """Raise `Problem` when the embedded Redis is gone."""
    try:
        _, writer = await asyncio.open_unix_connection(socket_path(settings.state_dir))
    except OSError:
        log = settings.state_dir / "redis.log"
        raise Problem("the embedded Redis has ended", f"Its log is {log}") from None
    writer.close()
