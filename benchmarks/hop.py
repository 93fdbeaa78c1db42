"""One hop through Redis: publishes timestamps at a pace, in place of a worker.

Waits for a line, then publishes.
"""

from __future__ import annotations

import asyncio
import random
import sys

import uvloop
from redis.asyncio import Redis

from benchmarks.answers import stamp

CHANNELS = "hop:"


async def _publish(redis: Redis, channel: str, chunks: int, period_s: float) -> None:
    loop = asyncio.get_running_loop()
    due_s = loop.time() + random.uniform(0, period_s)
    for _ in range(chunks):
        await asyncio.sleep(due_s - loop.time())
        await redis.publish(channel, stamp())
        due_s += period_s


async def main(url: str, streams: int, chunks: int, per_s: float) -> None:
    async with Redis.from_url(url) as redis:
        await redis.ping()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(
            *(_publish(redis, f"{CHANNELS}{n}", chunks, 1 / per_s) for n in range(streams))
        )


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
