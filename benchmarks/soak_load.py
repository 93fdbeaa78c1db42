"""The load of `soak`: streams at the pace of a model, and short jobs, without an end.

Producer and reader in one process. Prints nothing; `soak` measures and kills it.
"""

from __future__ import annotations

import asyncio
import random
import sys

import uvloop

from benchmarks.answers import burst, paced
from darkq import Client, Settings

STREAMS = 50
PER_S = 20.0
SHORT_JOBS = 10


async def _long(client: Client) -> None:
    while True:
        chunks = random.randint(20, 400)
        job = await client.enqueue(paced(chunks, PER_S))
        cursor = None
        async for event in job.events():  # leave in the middle, and come back
            cursor = event.id
            if random.random() < 0.02:
                break
        async for _ in job.events(after=cursor):
            pass


async def _short(client: Client) -> None:
    while True:
        job = await client.enqueue(burst(1))
        await job.result()
        await asyncio.sleep(random.uniform(0, 0.1))


async def main(redis_url: str) -> None:
    settings = Settings(_env_file=None, redis_url=redis_url)  # pyright: ignore[reportCallIssue]
    async with Client(settings=settings) as client, asyncio.TaskGroup() as group:
        for _ in range(STREAMS):
            group.create_task(_long(client))
        for _ in range(SHORT_JOBS):
            group.create_task(_short(client))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
