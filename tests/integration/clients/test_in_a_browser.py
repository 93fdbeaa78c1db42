"""A page of another origin follows a job with a ticket: by EventSource, and by `@darkq/client`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client
from darkq.event import Cursor
from support.by_hand import Hand, chunk, started
from support.gateways import Gateways
from support.waiting import wait_until

BY_EVENT_SOURCE = """([url, ticket]) => {
  window.ids = [];
  const source = new EventSource(`${url}/events?ticket=${ticket}`);
  source.onmessage = ({ lastEventId }) => ids.push(lastEventId);
  window.isClosed = () => source.readyState === EventSource.CLOSED;
}"""
BY_CLIENT = """async ([url, ticket, keep]) => {
  const { follow, cancel } = await import("/darkq.js");
  window.ids = [];
  let closed = false;
  window.isClosed = () => closed;
  window.cancel = () => cancel(`${url}/cancel`, { ticket });
  follow(`${url}/events`, { ticket, keep, onEvent: (_, id) => void ids.push(id) }).then(
    () => (closed = true), (error) => (window.error = error.code));
}"""
WAYS = {"EventSource": BY_EVENT_SOURCE, "the client": BY_CLIENT}


@pytest.fixture
async def gateways(make_settings: Any, make_key: Any, page_url: str) -> AsyncIterator[Gateways]:
    await make_key()
    gateways = Gateways(make_settings, page_url)
    await gateways.start()
    yield gateways
    await gateways.stop()


async def wait_for(page: Any, expression: str) -> None:
    await page.wait_for_function(expression, timeout=20_000)


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


@pytest.mark.parametrize("way", WAYS)
async def test_a_page_resumes_after_its_gateway_was_replaced(
    open_board: Any,
    complaints: list[str],
    page_url: str,
    gateways: Gateways,
    client: Client,
    hand: Hand,
    way: str,
) -> None:
    """Red when a reconnect loses the ticket or the cursor, or the page asks again after the end."""
    claim = await hand.take()
    job = client.job(claim.keys.public_id)
    page = await open_board(page_url)
    url = f"{gateways.url}/jobs/{job.id}"
    await page.evaluate(WAYS[way], [url, await job.ticket(), None])
    await hand.append(claim, started(1), chunk(1, 1))
    await wait_for(page, "ids.length === 3")
    await gateways.stop()
    await hand.append(claim, chunk(1, 2))
    await gateways.start()
    await wait_for(page, "ids.length === 4")
    await hand.append(claim, chunk(1, 3))
    await hand.complete(claim, "abc", Cursor(1, 4))
    await wait_for(page, "isClosed()")
    assert await page.evaluate("ids") == ["0-1", "1-0", "1-1", "1-2", "1-3", "1-4"]
    complaints.clear()  # of the connection that was lost


@pytest.mark.parametrize("way", WAYS)
async def test_a_page_with_a_ticket_that_has_ended_stops(
    open_board: Any, page_url: str, gateways: Gateways, client: Client, way: str
) -> None:
    job, other = await client.enqueue("x"), await client.enqueue("y")
    page = await open_board(page_url)
    url = f"{gateways.url}/jobs/{job.id}"
    for ticket in ("x", await other.ticket()):
        await page.evaluate(WAYS[way], [url, ticket, None])
        is_over = "isClosed()" if way == "EventSource" else "window.error"
        await wait_for(page, is_over)
        assert await page.evaluate("ids") == []


async def test_a_page_cancels_with_a_ticket_and_goes_on_after_a_reload(
    open_board: Any,
    complaints: list[str],
    page_url: str,
    gateways: Gateways,
    client: Client,
    hand: Hand,
) -> None:
    claim = await hand.take()
    job = client.job(claim.keys.public_id)
    url = f"{gateways.url}/jobs/{job.id}"
    page = await open_board(page_url)
    await hand.append(claim, started(1), chunk(1, 1))
    await page.evaluate(BY_CLIENT, [url, await job.ticket(), "darkq"])
    await wait_for(page, "ids.length === 3")
    assert await page.evaluate("cancel().catch((error) => error.code)") == "ticket_not_allowed"
    await page.reload()
    await page.evaluate(BY_CLIENT, [url, await job.ticket(cancel=True), "darkq"])
    await hand.append(claim, chunk(1, 2))
    await wait_for(page, "ids.length === 1")
    assert await page.evaluate("ids") == ["1-2"]
    assert (await page.evaluate("cancel()"))["state"] == "cancelling"
    complaints.clear()  # of the answer to the first one
    await hand.fail(claim, Cursor(1, 3))  # or another end: a worker's
    await wait_for(page, "isClosed()")


async def test_a_finished_job_is_read_from_the_browsers_cache(
    open_board: Any,
    page_url: str,
    gateways: Gateways,
    client: Client,
    hand: Hand,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when the browser may not keep the log: each visit would send all of it again."""
    caplog.set_level(logging.INFO)
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    await hand.complete(claim, "a", Cursor(1, 2))
    job = client.job(claim.keys.public_id)
    ticket = await job.ticket()
    page = await open_board(page_url)
    for status in (200, 304, 304):
        caplog.clear()
        url = f"{gateways.url}/jobs/{job.id}"
        await page.evaluate(BY_CLIENT, [url, ticket, None])
        await wait_for(page, "isClosed()")
        assert await page.evaluate("ids") == ["0-1", "1-0", "1-1", "1-2"]
        await wait_until("its log record", partial(is_logged, caplog, status))


def is_logged(caplog: pytest.LogCaptureFixture, status: int) -> bool:
    return f" status={status} " in caplog.text
