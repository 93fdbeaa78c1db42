"""`darkq up`: runs Redis, a local DarkAI and workers on this machine until Ctrl-C."""

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
from darkq_cli.terminal.redis import RedisTarget, open_redis

_REDIS_CHECK_INTERVAL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to start. `model` is None when DARKQ_DARKAI_URL names another DarkAI."""

    model: Model | None
    port: int
    workers: int


def up(*, model: Model | None, port: int | None, workers: int) -> None:
    """Start everything, print how to use it, and run until a signal or the end of a process."""
    settings = Settings.load()
    plan = Plan(model=_choose_model(settings, model, port), port=port or 0, workers=workers)
    stack.check_installed(plan.model)
    with open_redis(settings) as redis:
        try:
            interrupts.run(_up(plan, settings, redis))
        except KeyboardInterrupt:
            messages.say("darkq is down; jobs and results are kept")


def _choose_model(settings: Settings, model: Model | None, port: int | None) -> Model | None:
    if "darkai_url" not in settings.model_fields_set:
        return model or settings.local_model
    if model is not None or port is not None:
        raise Problem(
            "DARKQ_DARKAI_URL names a DarkAI, so none is started here",
            "Leave out --model and --port, or unset DARKQ_DARKAI_URL.",
            exit_code=USAGE_EXIT_CODE,
        )
    return None


async def _up(plan: Plan, settings: Settings, redis: RedisTarget) -> None:
    began_s = time.monotonic()
    log = _ChildLog()
    async with (
        stack.run_stack(settings, log.forward) as processes,
        Client(settings=redis.settings) as client,
    ):
        upstream, url = _list_upstreams(settings), None
        changes: dict[str, str | None] = {}
        if plan.model is not None:
            darkai = await processes.start_darkai(plan.model, port=plan.port)
            changes = stack.point_at_local(settings, darkai, plan.model)
            upstream, url = f"local DarkAI, {darkai.model}, {darkai.url}", darkai.url
        await processes.start_workers(plan.workers, client, changes)
        pids = ", ".join(str(worker.pid) for worker in processes.workers)
        messages.say(f"darkq is up, after {time.monotonic() - began_s:.1f} s", style="bold green")
        messages.say(f"  Redis     {redis.name}")
        messages.say(f"  upstream  {upstream}")
        messages.say(f"  workers   {plan.workers} (pid {pids})")
        _say_how_to_use(url)
        await processes.run_unless_dead(_wait_for_failure(log, settings))


def _list_upstreams(settings: Settings) -> str:
    """Return the names without their URLs, which may contain secrets."""
    host = urlsplit(settings.darkai_url).hostname or "the one of DARKQ_DARKAI_URL"
    return ", ".join([host] * settings.uses_darkai + sorted(settings.upstreams))


def _say_how_to_use(darkai_url: str | None) -> None:
    darkq = program.command()
    messages.say("In another terminal:")
    messages.say(f'  {darkq} run "Write a haiku about queues."')
    messages.say(f'  id=$({darkq} enqueue "Write a haiku about queues.")')
    messages.say(f"  {darkq} tail $id")
    messages.say(f"  {darkq} result $id")
    if darkai_url is not None:
        messages.say(f"  DARKQ_DARKAI_URL={darkai_url} {darkq} upstreams")
    messages.say("Ctrl-C stops everything; jobs and results are kept.")


class _ChildLog:
    """Forwards the output of the processes to stderr, until its reader has closed it."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def forward(self, name: str, line: str) -> None:
        """Write a line to stderr after the name of its process."""
        try:
            sys.stderr.write(f"{name} | {messages.replace_controls(line)}\n")
            sys.stderr.flush()
        except BrokenPipeError:
            self.closed.set()


async def _wait_for_failure(log: _ChildLog, settings: Settings) -> None:
    """Wait until stderr is closed or the embedded Redis has ended, and raise that."""
    while True:
        try:
            async with asyncio.timeout(_REDIS_CHECK_INTERVAL_S):
                await log.closed.wait()
            raise BrokenPipeError
        except TimeoutError:
            if settings.redis_url is None:
                await _check_redis(settings)


async def _check_redis(settings: Settings) -> None:
    """Raise `Problem` when the embedded Redis has ended."""
    try:
        _, writer = await asyncio.open_unix_connection(socket_path(settings.state_dir))
    except OSError:
        log = settings.state_dir / "redis.log"
        raise Problem("the embedded Redis has ended", f"Its log is {log}") from None
    writer.close()
