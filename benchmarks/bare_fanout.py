"""A bare fan-out: the least that a server does to pass events on, without any guarantee.

One subscription for all jobs, one frame for each message, one write of it to each socket. It reads
no log, so it has no cursors. It checks nothing, limits nothing and counts nothing.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import defaultdict
from typing import cast
from urllib.parse import urlsplit

import hiredis
import uvloop

from darkq.protocol.keys import JobKeys

_PATH = re.compile(rb"GET /jobs/([^/]+)/events ")
_BEGIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_QUEUED = b'data: {"type":"queued"}\n\n'
_INCOMPLETE = object()

_Sockets = defaultdict[bytes, list[asyncio.Transport]]


class _Subscription(asyncio.Protocol):
    def __init__(self, sockets: _Sockets) -> None:
        self._sockets = sockets
        self._replies = hiredis.Reader(notEnoughData=_INCOMPLETE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        subscribe = b"PSUBSCRIBE darkq:live:*\r\n"
        cast(asyncio.Transport, transport).write(subscribe)

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not _INCOMPLETE:
            if reply[0] == b"pmessage":
                frame = _chunk(b"id: 1-1\ndata: %b\n\n" % reply[3])
                for transport in self._sockets[reply[2]]:
                    transport.write(frame)


class _Reader(asyncio.Protocol):
    def __init__(self, sockets: _Sockets) -> None:
        self._sockets = sockets

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        found = _PATH.match(data)
        assert found is not None
        channel = JobKeys.parse(found[1].decode()).live
        self._sockets[channel.encode()].append(self._transport)
        self._transport.write(_BEGIN + _chunk(_QUEUED))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main(url: str) -> None:
    loop, sockets = asyncio.get_running_loop(), _Sockets(list)
    port = urlsplit(url).port
    await loop.create_connection(lambda: _Subscription(sockets), "127.0.0.1", port or 6379)
    server = await loop.create_server(lambda: _Reader(sockets), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
