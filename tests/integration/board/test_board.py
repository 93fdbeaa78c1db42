"""The board in a real browser: what people do with it."""

from __future__ import annotations

import re
from typing import Any

from playwright.async_api import Locator, Page, expect

from darkq import Client
from darkq_gateway.serve import gateway
from darkq_local.faults import Cut, Fault, Refusal
from support.http_api import Api

OPEN = re.compile(r"#job=(\d+-[0-9a-f]{32})$")


async def send(page: Page, prompt: str) -> str:
    """Send a prompt; return the id of its job, which is open then."""
    await page.fill("#prompt", prompt)
    await page.click("button.primary:visible")
    await expect(page).to_have_url(OPEN)
    found = OPEN.search(page.url)
    assert found is not None
    return found[1]


async def raw_text(attempt: Locator) -> str | None:
    """The text of an attempt as it came, not as Markdown."""
    await attempt.locator(".raw-button").click()
    return await attempt.locator(".raw").text_content()


async def test_an_answer_is_whole_after_a_reload_in_its_middle(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    await working(chunks=60, chunks_per_s=40)
    page = await open_board(api.url)
    job_id = await send(page, "Why do people queue?")
    text = page.locator(".attempt .text")
    await expect(text).to_have_text(re.compile(r"\S+ \S+ \S+"))
    await expect(page.locator("#job-state")).to_have_text("running")
    await page.reload()
    await expect(text).to_have_attribute("aria-busy", "true")
    await expect(page.locator("#job-state")).to_have_text("completed")
    result = await client.job(job_id).result(10)
    assert await raw_text(page.locator(".attempt")) == result.text
    assert await text.get_attribute("aria-busy") is None


async def test_a_gateway_that_ends_costs_no_text(
    client: Client, working: Any, open_board: Any, make_settings: Any
) -> None:
    await working(chunks=80, chunks_per_s=40)
    settings = {"gateway_drain_s": 0.5}
    async with gateway(make_settings(gateway_port=0, **settings)) as url:
        page = await open_board(url)
        job_id = await send(page, "Why do people queue?")
        await expect(page.locator(".attempt .text")).to_have_text(re.compile(r"\S+ \S+ \S+"))
    port = int(url.rsplit(":", 1)[1])
    async with gateway(make_settings(gateway_port=port, **settings)):
        await expect(page.locator("#job-state")).to_have_text("completed", timeout=20_000)
        result = await client.job(job_id).result(10)
        assert await raw_text(page.locator(".attempt")) == result.text
        assert await page.locator(".attempt").count() == 1
        await expect(page.locator("#connection")).to_have_text("live")
        await page.close()


async def test_cancel_stops_a_job(api: Api, client: Client, working: Any, open_board: Any) -> None:
    await working(chunks=500, chunks_per_s=20)
    page = await open_board(api.url)
    job_id = await send(page, "Why do people queue?")
    await expect(page.locator(".attempt .text")).to_have_text(re.compile(r"\S+ \S+"))
    await page.click("#job-cancel")
    await expect(page.locator("#job-state")).to_have_text("cancelled")
    await expect(page.locator("#job-cancel")).to_be_hidden()
    assert (await client.job(job_id).status()).state == "cancelled"
    row = page.locator("#jobs tr", has=page.locator(f'a[href="#job={job_id}"]'))
    await expect(row.locator(".pill")).to_have_text("cancelled")


async def test_the_text_of_a_lost_attempt_is_struck_and_never_joined(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    await working(Fault(cut=Cut("reset", 5)), None, chunks=20)
    page = await open_board(api.url)
    job_id = await send(page, "Why do people queue?")
    await expect(page.locator("#job-state")).to_have_text("completed")
    attempts = page.locator(".attempt")
    await expect(attempts).to_have_count(2)
    await expect(attempts.nth(0).locator(".pill")).to_have_text("lost")
    await expect(attempts.nth(0).locator(".note")).to_contain_text("again in")
    result = await client.job(job_id).result(10)
    lost = await attempts.nth(0).locator("del").text_content()
    assert lost
    assert await raw_text(attempts.nth(1)) == result.text
    assert await attempts.nth(1).locator("del").count() == 0
    decoration = "e => getComputedStyle(e).textDecorationLine"
    assert await attempts.nth(0).locator("del").evaluate(decoration) == "line-through"
    await page.click(".log summary")
    names = await page.locator("#events strong").all_text_contents()
    assert names == ["queued", "started", "chunk", "retrying", "started", "chunk", "completed"]


async def test_a_failed_job_is_run_again(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    await working(Fault(refusal=Refusal("json", 400)), None, chunks=20)
    failed = await client.enqueue("Why?")
    page = await open_board(f"{api.url}/#job={failed.id}")
    await expect(page.locator("#job-state")).to_have_text("failed")
    await expect(page.locator("#job-cancel")).to_be_hidden()
    await page.click("#job-retry")
    await expect(page.locator("#job-state")).to_have_text("completed")
    await expect(page.locator(".attempt")).to_have_count(2)
    result = await failed.result(10)
    assert await raw_text(page.locator(".attempt").last) == result.text
    await expect(page.locator("#job-retry")).to_be_hidden()


async def test_a_job_that_is_not_there_is_told(api: Api, open_board: Any) -> None:
    page = await open_board(f"{api.url}/#job=0-{'0' * 32}")
    await expect(page.locator("#job-problem")).to_contain_text("No such job")


async def test_texts_and_names_are_never_read_as_html(
    api: Api, client: Client, working: Any, open_board: Any, complaints: list[str]
) -> None:
    await working(chunks=5)
    evil = "<img src=x onerror=alert(1)>"
    handle = await client.enqueue(evil)
    async with client.batch(name=evil):
        page = await open_board(f"{api.url}/#job={handle.id}")
        await expect(page.locator("#batches .link")).to_have_text(evil)
    await handle.result(10)
    assert await page.locator("img[src='x']").count() == 0
    write = "() => { try { document.body.innerHTML = 'x' } catch (error) { return error.name } }"
    refused = await page.evaluate(write)
    assert refused == "TypeError"  # by the policy
    assert "TrustedHTML" in complaints.pop()
