"""`examples/tickets_app.py` in a browser: the page reads from the gateway, with tickets alone."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Page, Route, expect

from darkq import Client
from darkq_gateway.serve import gateway
from integration.gateway.clients import environments
from support.clients import pinned_versions
from support.waiting import wait_until

from .test_web_apps import find_port, serving

COMMAND = ["uvicorn", "tickets_app:app", "--port"]
CDN = re.compile(r"https://esm\.sh/(react|react-dom|htm)@([\d.]+)(/client)?")
BUNDLE_DEADLINE_S = 120.0
PATIENCE_MS = 20_000


@pytest.fixture
async def app_url(
    make_settings: Any, start_darkai: Any, start_worker: Any, client: Client
) -> AsyncIterator[str]:
    """A worker, a gateway that needs keys, and the app; yields the app's URL."""
    darkai = await start_darkai(chunks=60, chunks_per_s=10)
    start_worker(make_settings(darkai_url=darkai.url))
    await client.api_keys.create("web")
    port = find_port()
    origin = f"http://127.0.0.1:{port}"
    settings = make_settings(gateway_port=0, gateway_cors_origins=origin, gateway_drain_s=1.0)
    async with (
        gateway(settings) as url,
        serving(COMMAND, settings, port, GATEWAY_URL=url) as app_url,
    ):
        yield app_url


@pytest.fixture
async def modules(tmp_path: Path) -> Path:
    """A folder with the modules of the CDN, made of the packages that the clients' tests pin."""
    made = [f"{name}={name}" for name in ("react", "react-dom/client", "htm")]
    command = await asyncio.to_thread(environments.command, "npm", "esm.mjs")
    whole = [*command, str(tmp_path), *made]
    await asyncio.to_thread(subprocess.run, whole, check=True, timeout=BUNDLE_DEADLINE_S)
    return tmp_path


@pytest.fixture
async def page(open_board: Callable[..., Awaitable[Page]], modules: Path, app_url: str) -> Page:
    """The page; the test is its CDN."""

    async def serve(route: Route) -> None:
        url = route.request.url
        name = url.rpartition("/")[2]  # of a file that a module imports
        if match := CDN.fullmatch(url):
            package, version, path = match.groups("")
            assert version == pinned_versions("npm")[package]
            name = f"{package}{path}.js"
        await route.fulfill(
            path=modules / name,
            content_type="text/javascript",
            headers={"Access-Control-Allow-Origin": "*"},
        )

    page = await open_board("about:blank")
    await page.route("https://esm.sh/**", serve)
    await page.goto(app_url)
    return page


@pytest.mark.slow
@pytest.mark.timeout(900)  # it may install the packages
async def test_a_page_reads_reloads_and_stops_with_tickets(page: Page, client: Client) -> None:
    """Red if a reload loses text or shows it twice."""
    answer, state = page.locator("article"), page.locator("output")
    await page.click("button:has-text('Ask')")
    await expect(answer).to_have_text(re.compile(".{20}"), timeout=PATIENCE_MS)
    await page.reload()
    await expect(answer).to_have_text(re.compile(".{20}"), timeout=PATIENCE_MS)
    await expect(state).to_have_text("started")
    await expect(state).to_have_text("completed", timeout=PATIENCE_MS)
    (job,) = await client.jobs(tenant="alice")
    assert await answer.text_content() == (await client.job(job.job_id).result(5)).text
    await expect(page.locator("button:has-text('Stop')")).to_have_count(0)
    await page.click("button:has-text('Ask')")
    await expect(state).to_have_text("started", timeout=PATIENCE_MS)
    await page.click("button:has-text('Stop')")
    await expect(state).to_have_text("cancelled", timeout=PATIENCE_MS)

    async def is_cancelled() -> bool:
        return (await client.jobs(tenant="alice"))[0].state == "cancelled"

    await wait_until("the job to be cancelled", is_cancelled)


@pytest.mark.slow
@pytest.mark.timeout(900)  # it may install the packages
async def test_a_page_reports_what_is_refused(page: Page) -> None:
    await page.fill("textarea", " ")
    await page.click("button:has-text('Ask')")
    await expect(page.locator("output")).to_have_text(re.compile("prompt"))


async def test_a_ticket_for_a_job_of_another_user_opens_nothing(
    app_url: str, client: Client
) -> None:
    job = await client.enqueue("x", tenant="bob")
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{app_url}/jobs/{job.id}/ticket") as answer:
            made = await answer.json()
        async with session.get(made["url"], params={"ticket": made["ticket"]}) as answer:
            assert answer.status == 404
