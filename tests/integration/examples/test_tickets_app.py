"""`examples/tickets_app.py` in a browser: the page reads from the gateway, with tickets alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from darkq import Client
from darkq_gateway.serve import gateway
from support.waiting import wait_until

from .test_web_apps import find_port, serving

COMMAND = ["uvicorn", "tickets_app:app", "--port"]


@pytest.fixture
async def app_url(
    make_settings: Any, start_darkai: Any, start_worker: Any, client: Client
) -> AsyncIterator[str]:
    """A worker, a gateway that needs keys, and the app; yields the app's URL."""
    darkai = await start_darkai(chunks=60, chunks_per_s=20)
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


async def test_a_page_reads_reloads_and_stops_with_tickets(
    app_url: str, open_board: Any, client: Client
) -> None:
    page = await open_board(app_url)
    await page.click("button:has-text('Ask')")
    await page.wait_for_function("document.getElementById('answer').textContent.length > 20")
    await page.reload()
    await page.wait_for_function(
        "document.getElementById('state').textContent === 'completed'", timeout=20_000
    )
    (job,) = await client.jobs(tenant="alice")
    result = await client.job(job.job_id).result(5)
    assert await page.evaluate("document.getElementById('answer').textContent") == result.text
    await page.click("button:has-text('Ask')")
    await page.wait_for_function("document.getElementById('state').textContent === 'started'")
    await page.click("#stop")
    await page.wait_for_function("document.getElementById('state').textContent === 'cancelled'")

    async def is_cancelled() -> bool:
        return (await client.jobs(tenant="alice"))[0].state == "cancelled"

    await wait_until("the job to be cancelled", is_cancelled)


async def test_a_ticket_for_a_job_of_another_user_opens_nothing(
    app_url: str, client: Client
) -> None:
    job = await client.enqueue("x", tenant="bob")
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{app_url}/jobs/{job.id}/ticket") as answer:
            made = await answer.json()
        async with session.get(made["url"], params={"ticket": made["ticket"]}) as answer:
            assert answer.status == 404
