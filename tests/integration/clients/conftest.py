"""Fixtures: a real browser, gateways, and a page of another origin."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from integration.board.conftest import complaints, open_board
from integration.gateway.conftest import api, make_key, start_gateway, working
from support.repository import ROOT

__all__ = ["api", "complaints", "make_key", "open_board", "start_gateway", "working"]


@pytest.fixture
async def page_url() -> AsyncIterator[str]:
    """Serve an empty page and the client from an origin of their own."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(
            text="<!doctype html><link rel=icon href=data:><p>", content_type="text/html"
        )

    async def client(_: web.Request) -> web.FileResponse:
        return web.FileResponse(ROOT / "clients/js/darkq.js")

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/darkq.js", client)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
