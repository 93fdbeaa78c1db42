"""One chat response: the pieces of a model as SSE, with the faults that were asked for.

Events have the order of DarkAI's wire; `Fault` changes it. A second task sends the pings, so that
they continue while the model is silent. A lock keeps the bytes of each event together.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Literal, TypeAlias

from aiohttp import web

from darkq_local import wire
from darkq_local.faults import Cut, Fault, Refusal

Outcome: TypeAlias = Literal["complete", "fault"]

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
_MALFORMED = ("data: {not json", 'data: {"event": "text-chunk"}', 'data: ["text-chunk"]', "data:")


class ChatResponse:
    """Streams one response to a request."""

    def __init__(self, request: web.Request, fault: Fault, *, ping_interval_s: float) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self.chunks_sent = 0
        self._request = request
        self._fault = fault
        self._dialect = fault.dialect
        self._ping_interval_s = ping_interval_s
        self._writing = asyncio.Lock()
        self._text: list[str] = []
        self._malformed = itertools.cycle(_MALFORMED)

    async def send(self, query: str, pieces: AsyncGenerator[str, None]) -> Outcome:
        """Send the whole response, and close `pieces`.

        Raises what `pieces` raises, and `ConnectionResetError` after the client has disconnected.
        """
        await self.response.prepare(self._request)
        async with contextlib.aclosing(pieces), self._pings() as pings:
            if self._fault.bom:
                await self._write(b"\xef\xbb\xbf")
            if not self._fault.final_only:
                await self._event("begin-stream", query=query)
            await self._send_chunks(pieces)
            if self._fault.cut is not None:
                await self._break_off(self._fault.cut, pings)
                return "fault"
            await self._send_end()
        return "complete" if self._fault == Fault() else "fault"

    async def fail(self, detail: str) -> None:
        """Send an error event."""
        await self._write(self._dialect.error(detail))

    async def _send_chunks(self, pieces: AsyncGenerator[str, None]) -> None:
        limit = self._fault.cut.after_chunks if self._fault.cut else None
        if limit == 0 or self._fault.empty:
            return
        async for piece in pieces:
            await asyncio.sleep(self._fault.pause_s)
            self._text.append(piece)
            if not self._fault.final_only:
                await self._event("text-chunk", text=piece)
            if self._fault.malformed:
                await self._write(self._dialect.lines(next(self._malformed)))
            self.chunks_sent += 1
            if self.chunks_sent == limit:
                return

    async def _send_end(self) -> None:
        if not self._fault.final_only and not self._fault.swap:
            await self._event("stream-end")
        await self._event("final-response", message="".join(self._text))
        if self._fault.swap:
            await self._event("stream-end", thread_id=1)

    async def _break_off(self, cut: Cut, pings: asyncio.Task[None]) -> None:
        if cut.kind == "reset":
            reset_connection(self._request)
        elif cut.kind == "error":
            await self.fail(cut.detail)
        elif cut.kind in ("stall", "hang"):
            if cut.kind == "stall":
                pings.cancel()
            await asyncio.Event().wait()  # until the client disconnects or the server stops

    @contextlib.asynccontextmanager
    async def _pings(self) -> AsyncIterator[asyncio.Task[None]]:
        async def ping() -> None:
            while True:
                await asyncio.sleep(self._ping_interval_s)
                await self._write(self._dialect.ping())

        pings = asyncio.create_task(ping())
        try:
            yield pings
        finally:
            pings.cancel()
            await asyncio.gather(pings, return_exceptions=True)

    async def _event(self, event: str, **data: str | int) -> None:
        await self._write(self._dialect.event(event, **data))

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            size = self._fault.split_bytes or len(data)
            for start in range(0, len(data), size):
                await self.response.write(data[start : start + size])
                if size < len(data):
                    await asyncio.sleep(0)  # without this, several writes reach the socket as one


def reset_connection(request: web.Request) -> None:
    """Close the connection with a TCP RST."""
    transport = request.transport
    if transport is None:
        return
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def build_refusal(refusal: Refusal) -> web.Response:
    """Build the response that a refusal asks for."""
    if refusal.kind == "rate-limit":
        body = Fault().dialect.error(wire.RATE_LIMITED)
        return web.Response(status=refusal.status, body=body, headers=HEADERS)
    if refusal.kind == "json":
        return web.json_response({"detail": "the request was refused"}, status=refusal.status)
    titles = {403: "Attention Required!", 502: "502: Bad gateway", 520: "520: Web server error"}
    heading = titles.get(refusal.status, f"{refusal.status}: Error")
    page = (
        f"<!DOCTYPE html>\n<html lang='en-US'>\n<head><title>darkai | {heading}</title></head>\n"
        f"<body><h1>{heading}</h1><p>Error code {refusal.status}</p></body>\n</html>\n"
    )
    headers = {"Server": "cloudflare", "CF-RAY": "0000000000000000-AMS"}
    return web.Response(status=refusal.status, text=page, content_type="text/html", headers=headers)
