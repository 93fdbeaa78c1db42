"""The list of jobs: prompts lead, and filters, search and paging work on own jobs alone."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import pytest
from playwright.async_api import expect
from redis.asyncio import Redis

from darkq import Chunk, Client, JobFailed, JobHandle
from darkq.jobs.job_lists import MAX_LISTED
from darkq.protocol.keys import JobKeys
from darkq_gateway.board.job_index import MAX_ENDED_READ, JobIndex, ListQuery
from support.http_api import Api

MESSAGES = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Why do people queue?"},
]


async def listing_of(api: Api, query: str = "") -> Any:
    async with api.stream(f"/board/overview?{query}") as events:
        return json.loads((await anext(events)).data)["listing"]


async def test_prompts_lead_whether_a_job_waits_or_has_ended(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    await working(chunks=5, results_keep_prompts=True)
    ended = await client.enqueue(MESSAGES)
    await ended.result(10)
    await client.queue("interactive").pause(by="olga")
    waits = await client.enqueue("Name ten\n  cafés")
    page = await open_board(f"{api.url}/#job={waits.id}")
    rows = page.locator("#jobs tbody tr")
    await expect(rows.nth(0).locator("a")).to_have_text("Name ten cafés")
    await expect(rows.nth(0).locator(".about")).to_contain_text("paused by olga")
    await expect(rows.nth(1).locator("a")).to_have_text("Why do people queue?")
    await expect(page.locator("#job-prompt .said")).to_have_text("Name ten\n  cafés")
    await expect(page.locator("#job-why")).to_contain_text(
        "The interactive queue is paused by olga"
    )
    await rows.nth(1).locator("a").click()
    await expect(page.locator("#job-prompt .said")).to_have_text("Why do people queue?")
    await client.queue("interactive").resume()


async def test_all_messages_of_a_waiting_job_are_shown_with_their_roles(
    api: Api, client: Client, open_board: Any
) -> None:
    job = await client.enqueue(MESSAGES)
    page = await open_board(f"{api.url}/#job={job.id}")
    await expect(page.locator("#job-prompt h3")).to_have_text(["system", "user"])
    await expect(page.locator("#job-prompt .said").first).to_have_text("Answer briefly.")


async def test_an_ended_job_without_a_prompt_shows_its_answer(
    api: Api, client: Client, redis: Redis, working: Any, open_board: Any
) -> None:
    """Red if a result keeps the prompt though no setting asks for it."""
    await working(chunks=5)
    job = await client.enqueue("a secret prompt")
    result = await job.result(10)
    assert b"secret" not in await redis.get(JobKeys.parse(job.id).result)
    page = await open_board(f"{api.url}/#job={job.id}")
    await expect(page.locator("#jobs a.answered")).to_contain_text(f"→ {result.text[:15]}")
    await expect(page.locator("#job-prompt")).to_contain_text("DARKQ_RESULTS_KEEP_PROMPTS")


async def test_a_page_that_is_open_keeps_the_prompt_of_a_job_that_ends(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    job = await client.enqueue("a question")
    page = await open_board(f"{api.url}/#job={job.id}")
    await expect(page.locator("#jobs a")).to_have_text("a question")
    await working(chunks=5)
    await expect(page.locator("#jobs .pill")).to_have_text("completed")
    await expect(page.locator("#jobs a")).to_have_text("a question")
    await expect(page.locator("#job-prompt .said")).to_have_text("a question")


async def test_a_setting_hides_prompts(
    start_gateway: Any, client: Client, working: Any, open_board: Any
) -> None:
    await working(results_keep_prompts=True)
    job = await client.enqueue("a secret prompt")
    result = await job.result(10)
    api = await start_gateway(gateway_board_prompts=False)
    await client.queue("interactive").pause()
    waits = await client.enqueue("a secret prompt")
    snapshot = json.dumps(await listing_of(api))
    assert "secret" not in snapshot
    assert result.text[:10] not in snapshot
    assert (await listing_of(api, "text=secret"))["matched"] == 0
    answer = await api("GET", f"/board/jobs/{waits.id}/prompt")
    assert answer.json == {"messages": [], "is_whole": False, "is_hidden": True}
    page = await open_board(f"{api.url}/#job={waits.id}")
    await expect(page.locator("#job-prompt")).to_contain_text("DARKQ_GATEWAY_BOARD_PROMPTS")
    await client.queue("interactive").resume()


async def test_a_tenant_never_sees_the_prompt_of_another(
    api: Api, client: Client, make_key: Any
) -> None:
    alice, bob = await make_key("alice"), await make_key("bob")
    job = await client.enqueue("a secret prompt", tenant="alice")
    async with api.with_key(alice) as hers, api.with_key(bob) as his:
        assert (await listing_of(hers, "text=SECRET"))["matched"] == 1
        for query in ("", "text=secret", f"text={job.id}", "state=waiting"):
            found = await listing_of(his, query)
            assert (found["jobs"], found["total"], found["matched"]) == ([], 0, 0)
        prompt = await hers("GET", f"/board/jobs/{job.id}/prompt")
        assert prompt.json["messages"] == [{"role": "user", "text": "a secret prompt"}]
        foreign = await his("GET", f"/board/jobs/{job.id}/prompt")
        unknown = await his("GET", f"/board/jobs/0-{'0' * 32}/prompt")
        assert (foreign.status, foreign.json) == (404, unknown.json)


async def test_filters_search_and_pages(
    api: Api, client: Client, working: Any, open_board: Any
) -> None:
    await working(chunks=2, results_keep_prompts=True)
    jobs = [await client.enqueue(f"question {n}", model="gpt-4o") for n in range(43)]
    failed = await client.enqueue("[fault: status=400] a haiku")
    for job in jobs:
        await job.result(20)
    with pytest.raises(JobFailed):
        await failed.result(10)
    page = await open_board(api.url)
    rows = page.locator("#jobs tbody tr")
    await expect(page.locator("#jobs-count")).to_have_text("40 of 44")
    await expect(page.locator("#place")).to_have_text("1–40 of 44")
    await page.click("#older")
    await expect(page.locator("#place")).to_have_text("41–44 of 44")
    await expect(rows).to_have_count(4)
    await expect(page.locator("#older")).to_be_disabled()
    await page.click("#newer")
    await expect(page.locator("#place")).to_have_text("1–40 of 44")
    await page.select_option("#state", "failed")
    await expect(rows).to_have_count(1)
    await expect(rows.locator(".about.bad")).to_contain_text("rejected")
    await expect(page.locator("#state option:checked")).to_have_text("failed (1)")
    await page.select_option("#state", "")
    await page.fill("#search", "QUESTION 17")
    await expect(rows).to_have_count(1)
    await expect(page.locator("#jobs-count")).to_have_text("1 job")
    await page.fill("#search", failed.id[:12])
    await expect(rows.locator("a")).to_have_text("[fault: status=400] a haiku")
    await page.fill("#search", "no such words")
    await expect(page.locator("#jobs-none")).to_contain_text("No job matches")
    await page.click("#clear")
    await expect(rows).to_have_count(40)
    await page.select_option("#filter-model", "gpt-4o")
    await expect(page.locator("#jobs-count")).to_have_text("40 of 43")


async def test_a_wrong_query_is_refused(api: Api) -> None:
    for query in ("state=lost", f"text={'x' * 201}", "start=-1", f"model={'m' * 201}"):
        answer = await api("GET", f"/board/overview?{query}")
        assert (answer.status, answer.code) == (422, "invalid_query")


async def test_a_refresh_reads_new_jobs_and_few_known_ones(
    client: Client, redis: Redis, working: Any
) -> None:
    """Red if each refresh reads all of a tenant's thousand jobs again."""
    await working(chunks=2)
    jobs = await client.enqueue_many([f"question {n}" for n in range(100)])
    for job in jobs:
        await job.result(20)
    index = JobIndex(client, None, shows_prompts=True)
    await index.refresh()
    assert index.select(ListQuery(), 40).counts == {"completed": 100}
    before = await heads_read(redis)
    await index.refresh()
    assert await heads_read(redis) - before <= 2 * (40 + MAX_ENDED_READ)


async def heads_read(redis: Redis) -> int:
    return int((await redis.info("commandstats"))["cmdstat_getrange"]["calls"])


async def test_a_running_job_that_the_list_has_dropped_is_shown(
    client: Client, working: Any
) -> None:
    """Red if the index knows the tenant's latest thousand jobs alone."""
    await working(chunks=2000, chunks_per_s=20)
    old, foreign = await client.enqueue("old"), await client.enqueue("x", tenant="alice")
    async with client.batch() as batch:
        await batch.add("line")
        for job in (old, foreign):
            await read_until_running(job)
        await client.queue("interactive").pause()
        await client.enqueue_many(["new"] * MAX_LISTED)
        index = JobIndex(client, None, shows_prompts=True)
        await index.refresh()
        listing = index.select(ListQuery(state="running"), 40)
        assert [job.prompt for job in listing.jobs] == ["old"]
        assert listing.total == MAX_LISTED + 1
    await client.queue("interactive").resume()


async def read_until_running(job: JobHandle) -> None:
    async with aclosing(job.events()) as events:
        async for event in events:
            if isinstance(event, Chunk):
                return


async def test_an_expired_job_leaves_the_list_and_a_retried_one_changes(
    client: Client, redis: Redis, working: Any
) -> None:
    await working()
    gone, failed = await client.enqueue("x"), await client.enqueue("[fault: status=400] y")
    await gone.result(10)
    with pytest.raises(JobFailed):
        await failed.result(10)
    index = JobIndex(client, None, shows_prompts=True)
    await index.refresh()
    assert index.select(ListQuery(), 40).counts == {"completed": 1, "failed": 1}
    await redis.delete(JobKeys.parse(gone.id).result)
    await client.queue("interactive").pause()
    await failed.retry()
    await index.refresh()
    listing = index.select(ListQuery(), 40)
    assert (listing.counts, listing.jobs[0].prompt) == ({"waiting": 1}, "[fault: status=400] y")
    await client.queue("interactive").resume()


async def test_lines_of_a_batch_can_be_opened(
    api: Api, client: Client, open_board: Any, working: Any
) -> None:
    await working(chunks=2, results_keep_prompts=True)
    async with client.batch(name="reviews.jsonl") as batch:
        await batch.add("good: it works")
        await batch.add("[fault: status=400] bad: it broke")
        await batch.close_input()
        page = await open_board(api.url)
        await expect(page.locator("#batches .parts")).to_contain_text("2 of 2")
        await expect(page.locator("#batches .bad")).to_have_text("1 failed")
        await expect(page.locator("#batches .pill")).to_have_text("completed with failures")
        await page.click("#batches .link")
        await expect(page.locator("#jobs-title")).to_have_text("Lines of reviews.jsonl")
        rows = page.locator("#jobs tbody tr")
        await expect(rows).to_have_count(2)
        await rows.filter(has_text="it broke").locator("a").click()
        await expect(page.locator("#job-state")).to_have_text("failed")
        await expect(page.locator("#job-prompt")).to_contain_text("bad: it broke")
        await page.click("#batch-close")
        await expect(page.locator("#jobs-title")).to_have_text("Jobs")
        await expect(page.locator("#jobs-empty")).to_contain_text("darkq run")


async def test_lines_of_a_batch_of_another_are_not_shown(api: Api, client: Client) -> None:
    async with client.batch(metadata={"tenant": "alice"}) as batch:
        await batch.add("a secret prompt")
        assert (await listing_of(api, f"batch={batch.id}"))["jobs"] == []
    assert (await listing_of(api, "batch=nonsense"))["jobs"] == []


async def test_an_address_that_names_no_job_says_so(api: Api, open_board: Any) -> None:
    page = await open_board(f"{api.url}/#job=0-123")
    await expect(page.locator("#address-problem")).to_contain_text("“0-123” is not the id of a job")
    await page.evaluate(f"location.hash = 'job=0-{'0' * 32}'")
    await expect(page.locator("#job-problem")).to_contain_text("No such job")
    await expect(page.locator("#job-cancel")).to_be_hidden()
    await expect(page.locator("#address-problem")).to_be_hidden()
