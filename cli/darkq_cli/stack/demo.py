"""`darkq demo`: see it work, from nothing to an answer that stays."""

from __future__ import annotations

import asyncio
import time

from darkq import Client, Settings
from darkq_cli.stack import stack
from darkq_cli.terminal import interrupts, messages, program
from darkq_cli.terminal.options import Model
from darkq_cli.terminal.problems import Problem
from darkq_cli.terminal.reading import Reader
from darkq_cli.terminal.redis import Reached, redis_of


def demo(prompt: str, *, model: Model | None) -> None:
    """Start everything, ask, stream the answer, and say how to look at it again."""
    settings = Settings.load()
    chosen = model or settings.local_model
    if settings.redis_url is not None:
        raise Problem(
            "the demo's small model would also answer what others put into the Redis of "
            "DARKQ_REDIS_URL",
            f"Unset it for the demo: env -u DARKQ_REDIS_URL {program.command()} demo\n"
            f"Or run workers on it: {program.command()} up",
        )
    stack.check_installed(chosen)
    progress = _Progress()
    with redis_of(settings) as redis:
        progress.tell("Redis", redis.name)
        interrupts.run(_demo(prompt, chosen, settings, redis, progress))


class _Progress:
    """Says what has started, and how long after the beginning."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def tell(self, what: str, detail: str) -> None:
        """Say that something is ready."""
        messages.say(f"{time.monotonic() - self._began_s:5.1f} s  {what}: {detail}", style="dim")


async def _demo(
    prompt: str, model: Model, settings: Settings, redis: Reached, progress: _Progress
) -> None:
    async with (
        stack.running(settings, lambda name, line: None) as processes,
        Client(settings=redis.settings) as client,
    ):
        darkai = await processes.start_darkai(model)
        progress.tell(stack.DARKAI, darkai.model)
        changes = stack.for_local(settings, darkai, model)
        changes["worker_shutdown_grace_s"] = "0"  # nobody waits for other jobs here
        await processes.start_workers(1, client, changes)
        progress.tell("worker", f"pid {processes.workers[0].pid}")
        messages.say(f"\n> {prompt}\n", style="bold")
        await _ask(prompt, processes, client, settings)


async def _ask(prompt: str, processes: stack.Stack, client: Client, settings: Settings) -> None:
    asked_s = time.monotonic()
    job = await client.enqueue(prompt)
    reader = Reader(job)
    try:
        await processes.unless_dead(reader.read())
    except asyncio.CancelledError:
        reader.say_how_to_resume()
        messages.say(f"It waits for a worker now. To start one:\n  {program.command()} up")
        raise
    darkq = program.command()
    messages.say(f"\njob {job.id}", style="bold green")
    messages.say(f"  time to first chunk  {reader.first_chunk_s - asked_s:.2f} s")
    messages.say(f"  chunks per second    {_rate(reader)}")
    messages.say(f"To look at it again, for the next {settings.result_ttl_s / 3600:g} h:")
    for command in ("result", "tail", "status"):
        messages.say(f"  {darkq} {command} {job.id}")
    messages.say(f"To keep everything running:\n  {darkq} up")


def _rate(reader: Reader) -> str:
    took_s = reader.last_chunk_s - reader.first_chunk_s
    if reader.chunks < 2 or not took_s:
        return f"{reader.chunks} chunk"
    return f"{(reader.chunks - 1) / took_s:.1f} ({reader.chunks} in {took_s:.1f} s)"
