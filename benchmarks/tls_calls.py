"""Calls of a service over TLS, by bare aiohttp or by darkq's adapter.

Waits for a line, then prints JSON. `bare` splits the response into lines and decodes them, without
checks.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from contextlib import aclosing

import aiohttp
import msgspec
import uvloop

from darkq_worker.upstreams.base import End, Request
from darkq_worker.upstreams.http import make_session
from darkq_worker.upstreams.openai import OpenAIUpstream

SIDE_BY_SIDE = 10
_REQUEST = Request(prompt="one chunk, please")


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Frame(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Frame).decode


async def _bare(session: aiohttp.ClientSession, url: str, *, kept: bool) -> int:
    fields = {"model": "m", "messages": [{"role": "user", "content": _REQUEST.prompt}]}
    body = msgspec.json.encode({**fields, "stream": True})
    headers = {"content-type": "application/json"} | ({} if kept else {"connection": "close"})
    chunks, rest = 0, b""
    async with session.post(f"{url}/chat/completions", data=body, headers=headers) as response:
        async for data in response.content.iter_any():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    choices = _decode(line[6:]).choices
                    chunks += bool(choices and choices[0].delta.content)
    return chunks


def _bare_session(trust: ssl.SSLContext) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=trust)
    return aiohttp.ClientSession(connector=connector, auto_decompress=False)


async def _ours(upstream: OpenAIUpstream) -> int:
    chunks = 0
    async with aclosing(upstream.stream(_REQUEST)) as items:
        async for item in items:
            chunks += not isinstance(item, End)
    return chunks


async def main(url: str, authority: str, who: str, how: str, calls: int) -> None:
    trust, kept = ssl.create_default_context(cafile=authority), how == "kept"
    async with make_session(ssl=trust) if who == "darkq" else _bare_session(trust) as session:
        upstream = OpenAIUpstream(session, name="x", url=url, models=["m"], keeps_connections=kept)

        async def some(count: int) -> int:
            found = 0
            for _ in range(count):
                found += await (
                    _ours(upstream) if who == "darkq" else _bare(session, url, kept=kept)
                )
            return found

        await some(20)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        cpu_s, each = time.process_time(), calls // SIDE_BY_SIDE
        chunks = sum(await asyncio.gather(*(some(each) for _ in range(SIDE_BY_SIDE))))
        used_s = time.process_time() - cpu_s
        assert chunks == each * SIDE_BY_SIDE, "chunks are missing"
        print(json.dumps({"cpu_ms": used_s / chunks * 1e3}), flush=True)


if __name__ == "__main__":
    _, url, authority, who, how, calls = sys.argv
    uvloop.run(main(url, authority, who, how, int(calls)))
