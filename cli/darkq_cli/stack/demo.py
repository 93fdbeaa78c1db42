"""`darkq demo`: starts everything, sends one prompt, and prints the answer as it arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

from darkq import Client, Settings
from darkq_cli.stack import stack
from darkq_cli.terminal import interrupts, messages, program
from darkq_cli.terminal.options import Model
from darkq_cli.terminal.problems import Problem
from darkq_cli.terminal.reading import Reader
from darkq_cli.terminal.redis import RedisTarget, open_redis

Show: TypeAlias = Callable[[str, str], None]
"""Prints that something is ready, with a detail and the seconds so far."""


def demo(prompt: str, *, model: Model | None) -> None:
    """Start everything, stream the answer, and print how to read it again."""
    settings = Settings.load()
    chosen = model or settings.local_model
    if settings.redis_url is not None:
        raise Problem(
            "the demo's small model would also answer jobs of other producers in the Redis of "
            "DARKQ_REDIS_URL",
            f"Unset it for the demo: env -u DARKQ_REDIS_URL {program.command()} demo\n"
            f"Or run workers on it: {program.command()} up",
        )
    stack.check_installed(chosen, embedded=settings.redis_url is None)
    began_s = time.monotonic()

    def show(what: str, detail: str) -> None:
        messages.say(f"{time.monotonic() - began_s:5.1f} s  {what}: {detail}", style="dim")

    with open_redis(settings) as redis:
        show("Redis", redis.name)
        interrupts.run(_demo(prompt, chosen, settings, redis, show))


async def _demo(
    prompt: str, model: Model, settings: Settings, redis: RedisTarget, show: Show
) -> None:
    async with (
        stack.run_stack(settings, lambda name, line: None) as processes,
        Client(settings=redis.settings) as client,
    ):
        darkai = await processes.start_darkai(model)
        show(stack.DARKAI, darkai.model)
        changes = stack.point_at_local(settings, darkai, model)
        changes["worker_shutdown_grace_s"] = "0"  # there are no other jobs to finish
        await processes.start_workers(1, client, changes)
        show("worker", f"pid {processes.workers[0].pid}")
        messages.say(f"\n> {prompt}\n", style="bold")
        await _run_prompt(prompt, processes, client, settings)


async def _run_prompt(
    prompt: str, processes: stack.Stack, client: Client, settings: Settings
) -> None:
    enqueued_s = time.monotonic()
    job = await client.enqueue(prompt)
    reader = Reader(job)
    try:
        await processes.run_unless_dead(reader.read())
    except asyncio.CancelledError:
        reader.say_how_to_resume()
        messages.say(f"The job waits for a worker. To start one:\n  {program.command()} up")
        raise
    from darkq_local.models.base import MAX_CHUNKS

    darkq = program.command()
    if reader.chunks >= MAX_CHUNKS:
        messages.say(f"The local model stops after {MAX_CHUNKS} tokens.", style="dim")
    messages.say(f"\njob {job.id}", style="bold green")
    messages.say(f"  time to first chunk  {reader.first_chunk_s - enqueued_s:.2f} s")
    took_s = reader.last_chunk_s - reader.first_chunk_s
    rate = f"{reader.chunks} chunk"
    if reader.chunks > 1 and took_s:
        rate = f"{(reader.chunks - 1) / took_s:.1f} ({reader.chunks} in {took_s:.1f} s)"
    messages.say(f"  chunks per second    {rate}")
    messages.say(f"To read it again, for the next {settings.result_ttl_s / 3600:g} h:")
    for command in ("result", "tail", "status"):
        messages.say(f"  {darkq} {command} {job.id}")
    messages.say(f"To keep everything running:\n  {darkq} up")
