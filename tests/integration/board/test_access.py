"""Who sees what: the key is asked for, and a tenant sees its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp.test_utils import TestServer
from playwright.async_api import expect
from redis.asyncio import Redis

from darkq import Client
from darkq.protocol.keys import JobKeys
from darkq_gateway.app import make_app
from darkq_gateway.board.overview import OVERVIEWS
from darkq_gateway.http.sse_response import STREAMS
from support.http_api import Api
from support.waiting import wait_until


async def first_snapshot(api: Api) -> Any:
    async with api.stream("/board/overview") as events:
        return json.loads((await anext(events)).data)


async def test_a_key_is_asked_for_kept_for_the_tab_and_forgotten(
    api: Api, client: Client, working: Any, open_board: Any, make_key: Any
) -> None:
    secret = await make_key()
    await working(chunks=5)
    page = await open_board(api.url)
    await expect(page.locator("#key-dialog")).to_be_visible()
    await expect(page.locator("#key")).to_be_focused()
    await page.fill("#key", "darkq_wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator("#key-problem")).to_contain_text("does not accept this key")
    await page.fill("#key", secret)
    await page.keyboard.press("Enter")
    await expect(page.locator("#connection")).to_have_text("live")
    await page.fill("#prompt", "hello")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#job-state")).to_have_text("completed")
    await page.reload()
    await expect(page.locator("#job-state")).to_have_text("completed")
    stored = await page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]")
    assert stored == [0, "", 1]
    await page.click("#key-button")
    await page.click("#key-forget")
    await expect(page.locator("#key-dialog")).to_be_visible()
    assert await page.evaluate("sessionStorage.length") == 0


async def test_a_tenant_sees_its_own_jobs_and_nothing_of_the_system(
    api: Api, client: Client, make_key: Any
) -> None:
    alice, bob = await make_key("alice"), await make_key("bob")
    job = await client.enqueue("x", tenant="alice", metadata={"secret": "word"})
    async with api.with_key(alice) as hers, api.with_key(bob) as his:
        snapshot = await first_snapshot(hers)
        assert [row["job_id"] for row in snapshot["listing"]["jobs"]] == [job.id]
        assert snapshot["system"] is None
        assert "word" not in json.dumps(snapshot)
        assert (await first_snapshot(his))["listing"]["jobs"] == []
    assert (await api("GET", "/board/overview")).status == 401


async def test_an_operator_sees_the_system_and_its_own_jobs_alone(
    start_gateway: Any, client: Client, make_key: Any
) -> None:
    api = await start_gateway(gateway_operators="ops, others")
    secret = await make_key("ops")
    await client.enqueue("x", tenant="alice")
    async with api.with_key(secret) as ops:
        snapshot = await first_snapshot(ops)
    assert snapshot["listing"]["jobs"] == []
    assert sum(queue["waiting"] for queue in snapshot["system"]["queues"]) == 1


async def test_a_batch_of_a_tenant_is_nobody_elses(api: Api, client: Client) -> None:
    async with (
        client.batch(name="theirs", metadata={"tenant": "alice"}),
        client.batch(name="open"),
    ):
        snapshot = await first_snapshot(api)
    assert [batch["name"] for batch in snapshot["batches"]] == ["open"]


async def test_a_record_that_cannot_be_read_hides_no_other(
    api: Api, client: Client, redis: Redis, make_key: Any
) -> None:
    alice, bob = await make_key("alice"), await make_key("bob")
    kept, spoilt = [await client.enqueue("x", tenant="alice") for _ in range(2)]
    await redis.set(JobKeys.parse(spoilt.id).job, "no JSON", ex=60)
    for key, seen in ((alice, [kept.id]), (bob, [])):
        async with api.with_key(key) as caller, caller.stream("/board/overview") as events:
            jobs = json.loads((await anext(events)).data)["listing"]["jobs"]
            assert [job["job_id"] for job in jobs] == seen


async def test_one_poller_reads_for_all_and_only_while_somebody_watches(
    client: Client, make_settings: Any
) -> None:
    await client.enqueue("x")
    app = make_app(client, make_settings(), is_open=True)
    async with TestServer(app) as server, Api(str(server.make_url("")).rstrip("/")) as api:
        assert (app[OVERVIEWS].readings, followers()) == (0, 0)
        async with api.stream("/board/overview") as one, api.stream("/board/overview") as other:
            for _ in range(2):
                assert (await anext(one)).data == (await anext(other)).data
            assert app[OVERVIEWS].readings <= 3
            assert followers() == 1
        await wait_until("the streams to end", lambda: len(app[STREAMS]) == 0)
        await wait_until("the poller to rest", lambda: followers() == 0)


def followers() -> int:
    return sum(task.get_name() == "darkq-board-pace" for task in asyncio.all_tasks())
