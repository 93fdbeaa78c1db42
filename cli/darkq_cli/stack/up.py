"""`darkq up`: runs Redis, a local DarkAI and workers on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections import deque
from contextlib import ExitStack
from urllib.parse import urlsplit

from darkq import Client, Settings
from darkq.settings.private_files import socket_path
from darkq_cli.stack import stack
from darkq_cli.terminal import interrupts, messages, program
from darkq_cli.terminal.local_darkai import announce_darkai
from darkq_cli.terminal.options import Model
from darkq_cli.terminal.problems import Problem, wrong_usage
from darkq_cli.terminal.redis import RedisTarget, open_redis
from darkq_cli.terminal.units import format_megabytes

_REDIS_CHECK_INTERVAL_S = 1.0
_MAX_RESTARTS = 3
_RESTARTS_WITHIN_S = 60.0
_LOW_SPACE_BYTES = 100 << 20


def up(*, model: Model | None, port: int | None, workers: int) -> None:
    """Start everything, print how to use it, and run until a signal or the end of a process."""
    settings = Settings.load()
    model = _choose_model(settings, model, port)
    stack.check_installed(model, embedded=settings.redis_url is None)
    with open_redis(settings) as redis:
        if settings.redis_url is None:
            _say_low_space(settings)
        try:
            interrupts.run(_up(settings, redis, model, port or 0, workers))
        except KeyboardInterrupt:
            messages.say("darkq is down; jobs and results are kept")


def _say_low_space(settings: Settings) -> None:
    free = shutil.disk_usage(settings.state_dir).free
    if free < _LOW_SPACE_BYTES:
        messages.say(
            f"only {format_megabytes(free)} are free for the data of the embedded Redis in "
            f"{settings.state_dir}. When the disk is full, Redis refuses new jobs.",
            style="yellow",
        )


def _choose_model(settings: Settings, model: Model | None, port: int | None) -> Model | None:
    """Return the model to start, or None when DARKQ_DARKAI_URL names another DarkAI."""
    if "darkai_url" not in settings.model_fields_set:
        return model or settings.local_model
    if model is not None or port is not None:
        raise wrong_usage(
            "DARKQ_DARKAI_URL names a DarkAI, so none is started here",
            "Leave out --model and --port, or unset DARKQ_DARKAI_URL.",
        )
    return None


async def _up(
    settings: Settings, redis: RedisTarget, model: Model | None, port: int, workers: int
) -> None:
    began_s = time.monotonic()
    log = _ChildLog()
    async with (
        stack.run_stack(settings, log.forward) as processes,
        Client(settings=redis.settings) as client,
    ):
        others = await _describe_others(client)
        upstream = _list_upstreams(settings)
        changes: dict[str, str | None] = {}
        with ExitStack() as announced:
            if model is not None:
                darkai = await processes.start_darkai(model, port=port)
                changes = stack.point_at_local(settings, darkai, model)
                upstream = f"local DarkAI, {darkai.model}, {darkai.url}"
                announced.enter_context(announce_darkai(settings, darkai.url, darkai.model))
            await processes.start_workers(workers, client, changes)
            pids = ", ".join(str(worker.pid) for worker in processes.workers)
            took_s = time.monotonic() - began_s
            messages.say(f"darkq is up, after {took_s:.1f} s", style="bold green")
            messages.say(f"  Redis     {redis.name}")
            messages.say(f"  upstream  {upstream}")
            messages.say(f"  workers   {workers} (pid {pids})")
            if others:
                messages.say(others, style="yellow")
            darkq = program.command()
            messages.say(
                "In another terminal:\n"
                f'  {darkq} run "Write a haiku about queues."\n'
                f'  id=$({darkq} enqueue "Write a haiku about queues.")\n'
                f"  {darkq} tail $id\n"
                f"  {darkq} result $id\n"
                f"  {darkq} upstreams\n"
                "Ctrl-C stops everything; jobs and results are kept."
            )
            await processes.run_unless_dead(_watch(log, settings))


async def _describe_others(client: Client) -> str:
    """Describe what this `darkq up` joins: other workers take jobs of the same queues."""
    workers = await client.workers()
    if not workers:
        return ""
    served = [f"{each.name} ({each.default_model})" for each in await client.upstreams()]
    also = f", upstreams {', '.join(served)}" if served else ""
    return (
        f"  joins     {len(workers)} running: {', '.join(workers)}{also}\n"
        "            Any of these workers may take a job."
    )


def _list_upstreams(settings: Settings) -> str:
    """Return the names without their URLs, which may contain secrets."""
    host = urlsplit(settings.darkai_url).hostname or "the one of DARKQ_DARKAI_URL"
    return ", ".join([host] * settings.uses_darkai + sorted(settings.upstreams))


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


async def _watch(log: _ChildLog, settings: Settings) -> None:
    """Start an embedded Redis again that has ended. Raises when stderr is closed."""
    restarts: deque[float] = deque(maxlen=_MAX_RESTARTS)
    while True:
        try:
            async with asyncio.timeout(_REDIS_CHECK_INTERVAL_S):
                await log.closed.wait()
            raise BrokenPipeError
        except TimeoutError:
            if settings.redis_url is None and not await _listens(settings):
                await _restart_redis(settings, restarts)


async def _listens(settings: Settings) -> bool:
    """Return whether the embedded Redis accepts connections."""
    try:
        _, writer = await asyncio.open_unix_connection(socket_path(settings.state_dir))
    except OSError:
        return False
    writer.close()
    return True


async def _restart_redis(settings: Settings, restarts: deque[float]) -> None:
    """Start the embedded Redis again. Raises `Problem` if it ends again and again."""
    from darkq_local.embedded import embedded_redis

    now_s = time.monotonic()
    if len(restarts) == _MAX_RESTARTS and now_s - restarts[0] < _RESTARTS_WITHIN_S:
        text = f"the embedded Redis has ended {_MAX_RESTARTS + 1} times within a minute"
        raise Problem(text, f"Its log is {settings.state_dir / 'redis.log'}")
    restarts.append(now_s)

    def enter_redis() -> None:
        with embedded_redis(settings.state_dir):  # this process is its user already, so it stays
            pass

    messages.say("the embedded Redis has ended; starting it again", style="yellow")
    await asyncio.to_thread(enter_redis)
    messages.say("the embedded Redis runs again, with the data of its append-only file")
