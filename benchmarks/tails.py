"""How much memory does a reader need in a Python process: one tail per waiting job?

Prints kB per tail.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from benchmarks.machine import rss_bytes
from benchmarks.systems import settings_of
from darkq import Client, JobHandle


async def main(url: str, readers: int) -> None:
    async with Client(settings=settings_of(url)) as client:
        begun = asyncio.Semaphore(0)

        async def read(job: JobHandle) -> None:
            async for _ in job.events():
                begun.release()

        handles = await client.enqueue_many(["hello"] * (readers + 1))
        reading = [asyncio.create_task(read(handles[-1]))]
        await begun.acquire()
        before = rss_bytes(os.getpid())
        reading += [asyncio.create_task(read(job)) for job in handles[:-1]]
        for _ in range(readers):
            await begun.acquire()
        print((rss_bytes(os.getpid()) - before) / readers / 1000, flush=True)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
