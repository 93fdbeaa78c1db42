"""A DarkAI with minimal cost: raw asyncio, frames encoded in advance.

Prints its port. `answers` has its prompts.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections.abc import Iterator
from typing import cast

import uvloop

from benchmarks.answers import ARRIVAL, stamp

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_SLICE_BYTES = 16 << 10
_TEXT = b'data: {"event": "text-chunk", "data": {"event_type": "text-chunk", "text": "%s"}}\r\n\r\n'


def _frame(event: str, **fields: str) -> bytes:
    frame = {"event": event, "data": {"event_type": event, **fields}}
    return b"data: %s\r\n\r\n" % json.dumps(frame).encode()


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_BEGIN = _frame("begin-stream", query="q")
_END = _chunked(_frame("stream-end") + _frame("final-response", message="")) + b"0\r\n\r\n"


@functools.cache
def _burst(chunks: int) -> list[bytes]:
    body = _BEGIN + b"".join(_TEXT % b"word%d " % n for n in range(chunks))
    slices = [body[at : at + _SLICE_BYTES] for at in range(0, len(body), _SLICE_BYTES)]
    return [_HEAD + _chunked(slices[0]), *map(_chunked, slices[1:]), _END]


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._rest: Iterator[bytes] = iter(())
        self._timer: asyncio.TimerHandle | None = None
        self._may_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._may_write = False
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0]
        if blank and len(body) >= int(length):
            self._received = b""
            self._answer(json.loads(body)["query"])

    def _answer(self, prompt: str) -> None:
        kind, *arguments = prompt.split()
        if kind == ARRIVAL:
            text = _TEXT % stamp().encode()
            self._transport.write(_HEAD + _chunked(_BEGIN + text) + _END)
        elif kind == "burst":
            self._rest = iter(_burst(int(arguments[0])))
            self._write()
        else:
            chunks, period_s = int(arguments[0]), 1 / float(arguments[1])
            self._transport.write(_HEAD + _chunked(_BEGIN))
            # Streams that began together must not stay synchronous.
            self._beat(self._loop.time() + random.uniform(0, period_s), period_s, chunks)

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._write()

    def _write(self) -> None:
        while self._may_write and (piece := next(self._rest, None)) is not None:
            self._transport.write(piece)

    def _beat(self, at_s: float, period_s: float, chunks: int) -> None:
        self._timer = self._loop.call_at(at_s, self._chunk, at_s, period_s, chunks)

    def _chunk(self, at_s: float, period_s: float, chunks: int) -> None:
        self._transport.write(_chunked(_TEXT % stamp().encode()))
        if chunks > 1:
            self._beat(at_s + period_s, period_s, chunks - 1)
        else:
            self._transport.write(_END)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=8192)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
