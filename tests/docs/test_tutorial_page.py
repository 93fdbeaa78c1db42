"""The page of the tutorial, in a real browser: asked, left in the middle, come back to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Page, async_playwright

from darkq import Client
from docs.conftest import Read
from integration.board.conftest import ARGUMENTS, chromium
from support.doc_shell import Shell
from support.markdown import ROOT, blocks_of
from support.waiting import wait_until

pytestmark = pytest.mark.slow

APP = "uvicorn app:app --port 8000"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A tab of a browser."""
    path = chromium()
    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        stack.push_async_callback(browser.close)
        tab = await browser.new_page(viewport={"width": 720, "height": 220})
        tab.set_default_timeout(10_000)
        yield tab


async def test_a_page_that_is_left_goes_on_where_it_was(
    page: Page, reading: Read, client: Client
) -> None:
    async with reading({"slow"}) as reader:
        for block in blocks_of(ROOT / "docs" / "tutorial.md"):
            if "save as" in block.remarks:
                await reader.read(block)
        command = reader.here(APP)
        await reader.shell.serve(command)
        await page.goto(f"http://127.0.0.1:{command.split()[-1]}/")
        await page.get_by_role("button", name="Ask").click()
        await some_text(page)
        await page.reload()  # the id stands in the address
        await some_text(page)
        if folder := os.environ.get("DARKQ_SCREENSHOTS"):
            await page.screenshot(path=f"{folder}/tutorial.png")
        await restart(reader.shell, command)
        job = client.job(page.url.split("#")[1])
        result = await job.result(timeout_s=20)
        await page.wait_for_function("document.querySelector('#state').innerText.match('comp')")
        assert await said(page) == result.text != ""


async def restart(shell: Shell, command: str) -> None:
    await shell.interrupt(command)
    await shell.serve(command)


async def said(page: Page) -> str:
    return await page.locator("#answer").text_content() or ""


async def some_text(page: Page) -> None:
    async def is_under_way() -> bool:
        return len((await said(page)).split()) > 12

    await wait_until("words are on the page", is_under_way)
