"""A worker of arq as it comes, to compare: what one writes on a first afternoon.

`python -m faults.stock_worker SOCKET UPSTREAM_URL JOB_TIMEOUT_S`
"""

from __future__ import annotations

import json
import sys
from typing import Any

import aiohttp
from arq import Worker
from arq.connections import RedisSettings


def serialize(record: dict[str, Any]) -> bytes:
    return json.dumps(record, default=repr).encode()


def deserialize(data: bytes) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(data)
    return record


async def generate(ctx: dict[str, Any], prompt: str) -> str:
    """Call the upstream, publish each piece, return the text."""
    pieces: list[str] = []
    body = {"query": prompt, "model": "llama-3-70b"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(ctx["url"], json=body) as response,
    ):
        async for line in response.content:
            if line.startswith(b"data: "):
                frame = json.loads(line.removeprefix(b"data: "))
                if frame["event"] == "text-chunk":
                    pieces.append(frame["data"]["text"])
                    await ctx["redis"].publish(f"stock:{prompt}", pieces[-1])
    return "".join(pieces)


def main(socket: str, url: str, job_timeout_s: str) -> None:
    worker = Worker(
        [generate],
        redis_settings=RedisSettings(unix_socket_path=socket),
        job_timeout=float(job_timeout_s),
        job_serializer=serialize,
        job_deserializer=deserialize,
        ctx={"url": url},
    )
    print("worker ready", flush=True)
    worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
