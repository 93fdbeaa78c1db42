"""streaQ. streaq_peer.py worker|produce REDIS_URL UPSTREAM_URL JOBS"""

from __future__ import annotations

import json
import sys

import harness
import uvloop
from coredis import Redis as Coredis
from streaq import Worker


class _Publisher:
    """streaQ brings coredis; the job asks for `publish`, which both have."""

    def __init__(self, redis: Coredis[str]) -> None:
        self.publish = redis.publish


async def main(role: str, redis_url: str, url: str, jobs: int) -> None:
    worker: Worker[None] = Worker(
        redis_url, concurrency=jobs, serializer=json.dumps, deserializer=json.loads
    )
    async with harness.session() as session, Coredis.from_url(redis_url) as redis:
        publisher = _Publisher(redis)

        @worker.task(name="generate", timeout=harness.ROOM_S)
        async def generate(prompt: str, channel: str) -> str:
            return await harness.stream(session, publisher, url, prompt, channel)

        async def enqueue_many(calls: list[tuple[str, str]]) -> None:
            await worker.enqueue_many([generate.enqueue(*call) for call in calls])

        async def enqueue(prompt: str, channel: str) -> None:
            await generate.enqueue(prompt, channel)

        if role == "worker":
            await worker.run_async()
        else:
            async with worker:
                await harness.produce(enqueue, enqueue_many)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
