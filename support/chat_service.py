"""An OpenAI-compatible service that plays frames: text, reasoning, tool calls and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from aiohttp import web

from support.openai_frames import frame


def say(**fields: Any) -> bytes:
    return frame(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


def call(arguments: str, **first: Any) -> bytes:
    function = {**({"name": first.pop("name")} if "name" in first else {}), "arguments": arguments}
    return say(tool_calls=[{"index": 0, **first, "function": function}])


class Chat:
    """A service that plays frames, pauses after a given one, and keeps the bodies of requests."""

    def __init__(self, frames: list[bytes]) -> None:
        self.frames = frames
        self.bodies: list[dict[str, Any]] = []
        self.pauses_after: int | None = None
        self.sent = 0
        self.may_go_on = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, each in enumerate(self.frames, 1):
            await response.write(each)
            self.sent = number
            if number == self.pauses_after:
                await self.may_go_on.wait()
        return response

    def serving(self) -> AbstractAsyncContextManager[str]:
        """Serve, and yield the base URL."""
        return serving_chat(self.answer)


@asynccontextmanager
async def serving_chat(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """Serve chats with a handler, and yield the base URL."""
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
