"""The obvious first version: stock arq, one publish per chunk, returns the text.

arq's Worker with its defaults, except that it runs as many concurrent jobs as darkq and uses JSON
instead of pickle. aiohttp's session has no limit of connections: its default of 100 would act as
another queue.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiohttp
from arq.connections import RedisSettings
from arq.worker import Worker, func

CHANNELS = "naive:"


def serialize(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()


async def generate(ctx: dict[str, Any], prompt: str) -> str:
    """Stream an answer to the job's channel, and return it."""
    session: aiohttp.ClientSession = ctx["session"]
    channel = CHANNELS + ctx["job_id"]
    text = ""
    async with session.post(ctx["url"], json={"query": prompt, "model": "gpt-4o"}) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                frame = json.loads(line[6:])
                if frame["event"] == "text-chunk":
                    chunk = frame["data"]["text"]
                    text += chunk
                    await ctx["redis"].publish(channel, chunk)
    return text


async def main(redis_url: str, url: str, jobs: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        worker = Worker(
            [func(generate, name="generate")],
            redis_settings=RedisSettings.from_dsn(redis_url),
            max_jobs=jobs,
            job_serializer=serialize,
            job_deserializer=json.loads,
            ctx={"session": session, "url": url},
        )
        await worker.async_run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
