"""An OpenAI-compatible service over TLS with minimal cost: one chunk per call.

Takes a file with its key and certificates; prints its port.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any, cast

import uvloop


def _frame(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"object": "chat.completion.chunk", **fields}).encode() + b"\n\n"


_BODY = (
    _frame(choices=[{"index": 0, "delta": {"content": "word"}, "finish_reason": None}])
    + _frame(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _frame(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1})
    + b"data: [DONE]\n\n"
)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
_ANSWER = b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        head = head.lower() + b"\r\n"
        length = head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0]
        if not blank or len(body) < int(length):
            return
        self._received = b""
        is_last = b"connection: close\r\n" in head
        self._transport.write(_HEAD + (b"connection: close\r\n" if is_last else b"") + _ANSWER)
        if is_last:
            self._transport.close()


async def main(certificates: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, ssl=tls, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
