"""What the board reports to an operator: at the top, in the figures, in the title, on a phone."""

from __future__ import annotations

from typing import Any

from playwright.async_api import expect

from darkq import Client
from darkq.operate import stats
from darkq.telemetry.metrics import CHUNKS, Field
from darkq_gateway.serve import gateway
from integration.board.test_for_everybody import FAINT
from support.http_api import Api
from support.servers import Server, binaries, running


async def test_a_paused_queue_says_who_and_why(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    await working()
    await client.queue("bulk").pause(by="olga@ops", why="the upstream is moved")
    await client.enqueue("x", priority="bulk")
    page = await open_board(api.url)
    notice = page.locator(".notice")
    await expect(notice).to_contain_text("The bulk queue is paused")
    await expect(notice).to_contain_text("by olga@ops")
    await expect(notice).to_contain_text("the upstream is moved. 1 job waiting.")
    await expect(notice.locator("code")).to_have_text("darkq queues resume bulk")
    await expect(page).to_have_title("bulk paused · 1 waiting · darkq")
    await expect(page.locator("#figure-waiting .note")).to_contain_text("paused")
    assert await page.evaluate(FAINT) == []
    await client.queue("bulk").resume()
    await expect(notice).to_have_count(0)


async def test_no_worker_is_said_at_the_top(api: Api, client: Client, open_board: Any) -> None:
    await client.enqueue("x")
    page = await open_board(api.url)
    await expect(page.locator(".notice.bad")).to_contain_text("No worker is running. 1 job waits.")
    await expect(page.locator(".notice code")).to_have_text("darkq worker")
    await expect(page.locator("#jobs .about.warn")).to_contain_text("no worker is running")
    await expect(page.locator("#figure-running .note")).to_have_text("on 0 workers")
    assert await page.evaluate(FAINT) == []


async def test_a_redis_that_is_away_is_named_with_the_age_of_the_figures(
    make_settings: Any, open_board: Any
) -> None:
    with running(binaries()["valkey"]) as server:
        settings = make_settings(gateway_port=0, redis_url=server.url, redis_patience_s=0.5)
        async with gateway(settings) as url:
            await watch_an_outage(server, url, open_board)


async def watch_an_outage(server: Server, url: str, open_board: Any) -> None:
    page = await open_board(url)
    await expect(page.locator("#connection")).to_have_text("live")
    server.kill()
    notice = page.locator(".notice.bad").first
    await expect(notice).to_contain_text("Redis does not answer.", timeout=20_000)
    await expect(notice).to_contain_text("The figures are of")
    await expect(page).to_have_title("not live · darkq")
    server.start()
    await expect(page.locator("#connection")).to_have_text("live", timeout=30_000)
    await expect(page.locator(".notice", has_text="Redis")).to_have_count(0)
    await page.close()


async def test_a_gateway_that_is_away_is_named(make_settings: Any, open_board: Any) -> None:
    async with gateway(make_settings(gateway_port=0, gateway_drain_s=0.5)) as url:
        page = await open_board(url)
        await expect(page.locator("#connection")).to_have_text("live")
    notice = page.locator(".notice.bad").first
    await expect(notice).to_contain_text("The gateway does not respond.", timeout=20_000)
    await page.close()


async def test_figures_count_failures_and_what_workers_count(
    api: Api, client: Client, redis: Any, working: Any, open_board: Any
) -> None:
    """Red if the rate counts the listed jobs alone: lines of batches are not among them."""
    await working()
    failed = await client.enqueue("[fault: status=400] x")
    page = await open_board(f"{api.url}/#job={failed.id}")
    await expect(page.locator("#figure-failed .value")).to_have_text("1")
    await expect(page.locator("#figure-failed .note")).to_have_text("1 in the last hour")
    await expect(page.locator("#job-why.bad")).to_contain_text("Failed in attempt 1")
    await expect(page.locator("#job-why code")).to_have_text("rejected")
    await expect(page).to_have_title("failed: [fault: status=400] x · darkq")
    numbers: dict[Field, int] = {(CHUNKS.name, ("darkai",), 0): 5000}
    await stats.add(redis, "w:1:a", stats.Report(1, numbers, 0, 1))
    await expect(page.locator("#figure-pace .value")).not_to_have_text("0")
    points = page.locator("#figure-pace .line")
    first = str(await points.get_attribute("points")).split()[0]
    assert first.startswith("0.0,"), "a plot begins at the left edge"


async def test_a_tap_on_a_phone_shows_the_job(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    await working(chunks=20, results_keep_prompts=True)
    for number in range(12):
        await client.enqueue(f"question {number}")
    phone = {"width": 390, "height": 844}
    page = await open_board(api.url, viewport=phone, has_touch=True, is_mobile=True)
    row = page.locator("#jobs tbody tr a", has_text="question 3")
    await row.scroll_into_view_if_needed()
    await row.tap()
    await expect(page.locator("#job")).to_be_focused()
    await expect(page.locator("#job-state")).to_have_text("completed")
    box = await page.locator("#job").bounding_box()
    assert box == {"x": 0, "y": 0, **phone}
    await expect(page.locator("kbd")).to_be_hidden()
    await page.tap("#job-close")
    await expect(page.locator("#job")).to_be_hidden()
    await expect(row).to_be_in_viewport()


async def test_escape_closes_the_job(api: Api, client: Client, open_board: Any) -> None:
    job = await client.enqueue("x")
    page = await open_board(f"{api.url}/#job={job.id}")
    await expect(page.locator("#job-open")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#job-empty")).to_be_visible()
