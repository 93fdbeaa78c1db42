"""What the scripts of all peers share: the job, and a producer that reads requests as lines.

Runs in the environment of the peer, so it uses only aiohttp, redis and the standard library. The
job is the naive one (`benchmarks/naive.py`): read line by line, publish each chunk on the job's
channel, return the text.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from redis.asyncio import Redis

CHANNELS = "peer:"
AT_ONCE = 100
ROOM_S = 60 * 60  # longer than any run, so that no timeout of a peer applies

Enqueue = Callable[[str, str], Awaitable[object]]
"""Takes a prompt and the name of the channel."""
EnqueueMany = Callable[[list[tuple[str, str]]], Awaitable[object]]


async def stream(
    session: aiohttp.ClientSession, redis: Redis, url: str, prompt: str, channel: str
) -> str:
    """Stream an answer to a channel, and return it."""
    text = ""
    async with session.post(url, json={"query": prompt, "model": "gpt-4o"}) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                frame = json.loads(line[6:])
                if frame["event"] == "text-chunk":
                    chunk = frame["data"]["text"]
                    text += chunk
                    await redis.publish(CHANNELS + channel, chunk)
    return text


def session() -> aiohttp.ClientSession:
    """Return a session without a limit of connections, the same for all systems."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def produce(enqueue: Enqueue, enqueue_many: EnqueueMany | None = None) -> None:
    """Read requests from standard input, a JSON line each; write a line for each."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        print(json.dumps(await _obey(order, enqueue, enqueue_many)), flush=True)


async def _obey(order: dict[str, Any], enqueue: Enqueue, enqueue_many: EnqueueMany | None) -> Any:
    prompt, count = order["prompt"], order["count"]
    jobs = [(prompt, str(n)) for n in range(count)]
    begin_s = time.monotonic()
    match order["how"]:
        case "one":
            for job in jobs:
                await enqueue(*job)
        case "at_once":
            for start in range(0, count, AT_ONCE):
                batch = jobs[start : start + AT_ONCE]
                await asyncio.gather(*(enqueue(*job) for job in batch))
        case "bulk":
            if enqueue_many is None:
                return None
            await enqueue_many(jobs)
        case "random":
            return await _at_random(enqueue, jobs, order["per_s"])
    return time.monotonic() - begin_s


async def _at_random(enqueue: Enqueue, jobs: list[tuple[str, str]], per_s: float) -> list[int]:
    """Enqueue at random moments; return the times."""
    begun_ns: list[int] = []
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            await asyncio.sleep(random.uniform(0, 2 / per_s))
            begun_ns.append(time.monotonic_ns())
            group.create_task(_call(enqueue, job))
    return begun_ns


async def _call(enqueue: Enqueue, job: tuple[str, str]) -> None:
    await enqueue(*job)
