"""An HTTP server that plays recorded answers, one for each path, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Recording:
    """An answer as some server sent it."""

    pieces: tuple[bytes, ...]
    status: int = 200
    content_type: str | None = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, response: Mapping[str, Any]) -> Recording:
        """Read one from the JSON of a case."""
        return cls(
            pieces=tuple(piece.encode() for piece in response["pieces"]),
            status=response["status"],
            content_type=response["content_type"],
            headers=response.get("headers") or {},
        )


class RecordedServer:
    """Answers `POST /<name>/v1/chat/completions` with the recording of that name."""

    def __init__(self, recordings: Mapping[str, Recording]) -> None:
        self.recordings = dict(recordings)
        self.calls: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{name}/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    def url_of(self, name: str) -> str:
        """Return the base URL of a recording."""
        return f"http://127.0.0.1:{self._port}/{name}/v1"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.calls[name] = self.calls.get(name, 0) + 1
        await request.read()
        recording = self.recordings[name]
        response = web.StreamResponse(status=recording.status, headers=recording.headers)
        if recording.content_type is not None:
            response.headers["content-type"] = recording.content_type
        response.enable_chunked_encoding()
        await response.prepare(request)
        for piece in recording.pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        await response.write_eof()
        return response
