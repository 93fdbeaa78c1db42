"""SAQ. saq_peer.py worker|produce REDIS_URL UPSTREAM_URL JOBS"""

from __future__ import annotations

import sys
from typing import Any

import harness
import uvloop
from redis.asyncio import Redis
from saq import Job, Queue, Worker


async def main(role: str, redis_url: str, url: str, jobs: int) -> None:
    queue = Queue.from_url(redis_url)

    async def enqueue(prompt: str, channel: str) -> object:
        return await queue.enqueue(
            Job("generate", kwargs={"prompt": prompt, "channel": channel}, timeout=harness.ROOM_S)
        )

    if role == "produce":
        await harness.produce(enqueue)
        return
    async with harness.session() as session, Redis.from_url(redis_url) as redis:

        async def generate(_: Any, *, prompt: str, channel: str) -> str:
            return await harness.stream(session, redis, url, prompt, channel)

        await Worker(queue, [("generate", generate)], concurrency=jobs).start()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
