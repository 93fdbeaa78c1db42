"""Fixtures: a real browser that opens the board, and what it complains of."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright

from integration.gateway.conftest import api, make_key, start_gateway, working

__all__ = ["api", "make_key", "start_gateway", "working"]

OpenBoard = Callable[..., Awaitable[Page]]

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What Chromium itself says of every answer that is no 2xx, and of a gateway that has ended.
_OF_ANSWERS = (
    "Failed to load resource: the server responded with a status of",
    "Failed to load resource: net::ERR_CONNECTION_REFUSED",
)


def chromium() -> str:
    """Return where Chromium is; without it, skip, but never where the tests count."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    reason = "no Chromium is installed: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def complaints() -> list[str]:
    """What the pages wrote on the console: errors, and what the policy has forbidden."""
    return []


@pytest.fixture
async def open_board(complaints: list[str]) -> AsyncIterator[OpenBoard]:
    """Open pages of boards, each in a fresh profile; at the end none may have complained."""
    path = chromium()

    def hear(message: ConsoleMessage) -> None:
        if not message.text.startswith(_OF_ANSWERS):
            complaints.append(f"{message.type}: {message.text}")

    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        stack.push_async_callback(browser.close)

        async def open_page(url: str, **options: Any) -> Page:
            context = await browser.new_context(**options)
            context.set_default_timeout(10_000)
            page = await context.new_page()
            page.on("console", hear)
            page.on("pageerror", lambda error: complaints.append(f"page: {error}"))
            await page.goto(url)
            return page

        yield open_page
    assert complaints == []
