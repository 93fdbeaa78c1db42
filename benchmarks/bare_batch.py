"""A typical script for a file of prompts: asyncio and aiohttp, 100 concurrent calls, no queue.

Reads and writes the lines of `darkq batch run`. After an interruption it starts from the beginning.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import msgspec
import uvloop

CALLS_AT_ONCE = 100


async def main(url: str, source: Path, target: Path) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    with source.open("rb") as lines, target.open("wb") as answers:
        async with aiohttp.ClientSession(connector=connector) as session:
            left = iter(lines)
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLS_AT_ONCE):
                    group.create_task(_answer(session, url, left, answers))


async def _answer(
    session: aiohttp.ClientSession, url: str, left: Iterator[bytes], answers: BinaryIO
) -> None:
    for line in left:
        asked = msgspec.json.decode(line)
        text = await _text(session, url, asked["prompt"])
        answers.write(msgspec.json.encode(_output(asked["custom_id"], text)) + b"\n")


async def _text(session: aiohttp.ClientSession, url: str, prompt: str) -> str:
    texts = []
    async with session.post(url, json={"query": prompt, "model": "gpt-4o"}) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                event = msgspec.json.decode(line[6:])
                if event["event"] == "text-chunk":
                    texts.append(event["data"]["text"])
    return "".join(texts)


def _output(custom_id: str, text: str) -> dict[str, Any]:
    name = uuid.uuid4().hex
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "gpt-4o",
        "choices": [choice],
    }
    response = {"status_code": 200, "request_id": name, "body": body}
    return {"id": f"batch_req_{name}", "custom_id": custom_id, "response": response, "error": None}


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
