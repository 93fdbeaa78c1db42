"""taskiq, on a Redis stream. taskiq_peer.py worker|produce REDIS_URL UPSTREAM_URL JOBS"""

from __future__ import annotations

import sys

import harness
import uvloop
from redis.asyncio import Redis
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker


async def main(role: str, redis_url: str, url: str, jobs: int) -> None:
    results: RedisAsyncResultBackend[str] = RedisAsyncResultBackend(redis_url)
    broker = RedisStreamBroker(redis_url).with_result_backend(results)
    broker.is_worker_process = role == "worker"
    async with harness.session() as session, Redis.from_url(redis_url) as redis:

        @broker.task(task_name="generate")
        async def generate(prompt: str, channel: str) -> str:
            return await harness.stream(session, redis, url, prompt, channel)

        await broker.startup()
        if role == "worker":
            await run_receiver_task(broker, max_async_tasks=jobs)
        else:
            await harness.produce(generate.kiq)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
