"""Reads the upstream without a queue and without Redis: the minimum work of a worker.

`decoded` uses aiohttp's `iter_any`, splits bytes into lines, and decodes with msgspec. `raw` only
counts bytes, and shows the speed of the upstream. Waits for a line, then reads, and prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop


class _Text(msgspec.Struct):
    text: str


class _Frame(msgspec.Struct):
    event: Literal["text-chunk"]
    data: _Text


_decode = msgspec.json.Decoder(_Frame).decode


async def _decoded(session: aiohttp.ClientSession, url: str, prompt: str) -> int:
    chunks, rest, texts = 0, b"", []
    async with session.post(url, json={"query": prompt, "model": "gpt-4o"}) as response:
        async for data in response.content.iter_any():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    try:
                        texts.append(_decode(line[6:]).data.text)
                    except msgspec.ValidationError:
                        continue  # another event
                    chunks += 1
    return chunks


async def _raw(url: str, prompt: str) -> int:
    """Count chunks without decoding anything, not even HTTP."""
    place = urlsplit(url)
    body = json.dumps({"query": prompt}).encode()
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 18)
    writer.write(b"POST /chat HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    chunks, last = 0, b""
    while not last.endswith(b"\r\n0\r\n\r\n"):
        data = await reader.read(1 << 18)
        chunks += data.count(b'"text": ')
        last = (last + data)[-16:]
    writer.close()
    return chunks


async def main(url: str, prompt: str, streams: int, how: str) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await _decoded(session, url, "burst 1")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begin_s, begin_cpu_s = time.monotonic(), time.process_time()
        reads = (
            _raw(url, prompt) if how == "raw" else _decoded(session, url, prompt)
            for _ in range(streams)
        )
        chunks = sum(await asyncio.gather(*reads))
        took = {"s": time.monotonic() - begin_s, "cpu_s": time.process_time() - begin_cpu_s}
        print(json.dumps({"chunks": chunks, **took}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
