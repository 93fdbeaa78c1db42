"""What a browser may keep of a finished job, and that it never shows what is not so any more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.event import Cursor
from darkq_gateway.native import job_events
from support.by_hand import Hand, chunk, started
from support.http_api import Answer, Api


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


async def finished(hand: Hand, text: str = "ab") -> str:
    claim = await hand.take()
    await hand.append(claim, started(1), *(chunk(1, n, c) for n, c in enumerate(text, 1)))
    await hand.complete(claim, text, Cursor(1, len(text) + 1))
    return claim.keys.public_id


async def again(api: Api, path: str, etag: str, method: str = "GET") -> Answer:
    return await api(method, path, headers={"If-None-Match": etag})


@pytest.mark.parametrize("what", ["events", "result"])
async def test_a_finished_job_may_be_kept_by_its_reader_alone(
    api: Api, hand: Hand, what: str
) -> None:
    path = f"/jobs/{await finished(hand)}/{what}"
    first = await api("GET", path)
    etag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "private, no-cache"
    vary = ", ".join(first.headers.getall("Vary"))
    assert {"Authorization", "Last-Event-ID"} <= set(vary.split(", "))
    unchanged = await again(api, path, f'"other", {etag}')
    assert (unchanged.status, unchanged.json) == (304, b"")
    for name in ("ETag", "Cache-Control", "Vary"):
        assert unchanged.headers.getall(name) == first.headers.getall(name), name
    for known in ("*", etag.removeprefix("W/")):
        assert (await again(api, path, known)).status == 304
    for known in ('"other"', "", "x", etag.replace("1", "2")):
        answer = await again(api, path, known)
        assert (answer.status, answer.json) == (200, first.json), known


@pytest.mark.parametrize("what", ["events", "result"])
async def test_head_is_get_without_the_body(api: Api, hand: Hand, what: str) -> None:
    """Red when a HEAD has a body, or a Content-Length of its own."""
    path = f"/jobs/{await finished(hand)}/{what}"
    get, head = await api("GET", path), await api("HEAD", path)
    own = {"X-Request-ID", "Date"}
    heads = [{k: v for k, v in each.headers.items() if k not in own} for each in (get, head)]
    assert head.status == 200
    assert heads[0] == heads[1]
    async with api.http.get(api.url + path) as answer:
        assert int(answer.headers["Content-Length"]) == len(await answer.read())
    assert (await again(api, path, get.headers["ETag"], "HEAD")).status == 304


async def test_each_cursor_has_a_version_of_its_own(api: Api, hand: Hand) -> None:
    """Red if the tag of the whole log is also that of a part of it."""
    path = f"/jobs/{await finished(hand)}/events"
    seen = await api.events(path)
    tags = {(await api("GET", path)).headers["ETag"]}
    for event in seen[:-1]:
        by_header = await api("GET", path, headers={"Last-Event-ID": event.id})
        by_query = await api("GET", f"{path}?after={event.id}")
        assert by_header.json == by_query.json
        assert by_header.headers["ETag"] == by_query.headers["ETag"]
        tags.add(by_header.headers["ETag"])
        headers = {"Last-Event-ID": event.id, "If-None-Match": by_header.headers["ETag"]}
        assert (await api("GET", path, headers=headers)).status == 304
    assert len(tags) == len(seen)
    end = await api("GET", path, headers={"Last-Event-ID": seen[-1].id})
    assert (end.status, end.headers["Cache-Control"], "ETag" in end.headers) == (
        204,
        "no-store",
        False,
    )


@pytest.mark.parametrize("what", ["events", "result", ""])
async def test_what_may_still_change_is_not_kept(api: Api, hand: Hand, what: str) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    path = f"/jobs/{claim.keys.public_id}/{what}".rstrip("/")
    async with api.http.get(api.url + path, headers={"If-None-Match": "*"}) as answer:
        assert answer.status in (200, 202)
        assert answer.headers["Cache-Control"] == "no-store"
        assert "ETag" not in answer.headers
    if what == "events":
        assert (await api("HEAD", path)).status == 405
    await hand.fail(claim, Cursor(1, 2))


async def test_a_retried_job_is_another_version(api: Api, hand: Hand, client: Client) -> None:
    """Red when a page shows the failure of a job that has been completed since."""
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    await hand.fail(claim, Cursor(1, 2))
    path = f"/jobs/{claim.keys.public_id}/events"
    failed = await api("GET", path)
    assert b'"failed"' in failed.json
    assert (await again(api, path, failed.headers["ETag"])).status == 304
    result = await api("GET", f"/jobs/{claim.keys.public_id}/result")
    assert (result.status, result.headers["Cache-Control"]) == (409, "no-store")
    await client.job(claim.keys.public_id).retry()
    async with api.http.get(
        api.url + path, headers={"If-None-Match": failed.headers["ETag"]}
    ) as answer:
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    claim = await hand.claim_one()
    await hand.append(claim, started(claim.attempt), chunk(claim.attempt, 1))
    await hand.complete(claim, "x", Cursor(claim.attempt, 2))
    ended = await again(api, path, failed.headers["ETag"])
    assert ended.status == 200
    assert b'"completed"' in ended.json


async def test_a_copy_is_of_no_use_once_the_job_is_gone(
    api: Api, hand: Hand, client: Client, redis: Redis
) -> None:
    deleted, expired = await finished(hand), await finished(hand)
    paths = [f"/jobs/{job_id}/{what}" for job_id in (deleted, expired) for what in READS]
    tags = [(await api("GET", path)).headers["ETag"] for path in paths]
    await client.job(deleted).delete()
    await redis.delete(f"arq:result:{{0}}{expired[2:]}", f"darkq:events:{{0}}{expired[2:]}")
    for path, etag in zip(paths, tags, strict=True):
        assert (await again(api, path, etag)).status == 404


READS = ("events", "result")


async def test_a_copy_of_another_tenants_is_an_unknown_job(
    api: Api, make_key: Any, client: Client, working: Any
) -> None:
    """Red when a tag is compared before it is known whose the job is."""
    await working()
    job = await client.enqueue("x", tenant="alice")
    await job.result(20)
    async with (
        api.with_key(await make_key("alice")) as alice,
        api.with_key(await make_key("bob")) as bob,
    ):
        for what in READS:
            etag = (await alice("GET", f"/jobs/{job.id}/{what}")).headers["ETag"]
            assert (await again(bob, f"/jobs/{job.id}/{what}", etag)).status == 404
            assert (await again(bob, f"/jobs/{job.id}/{what}", "*")).status == 404
            assert (await again(api, f"/jobs/{job.id}/{what}", etag)).status == 401


async def test_a_log_too_long_for_one_response_is_streamed_and_not_kept(
    api: Api, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a response holds any log whole in memory, or a stream may be kept: it may be cut."""
    job_id = await finished(hand, "abcdef")
    whole = await api.events(f"/jobs/{job_id}/events")
    monkeypatch.setattr(job_events, "MAX_WHOLE_BYTES", 100)
    answer = await api("GET", f"/jobs/{job_id}/events")
    assert (answer.headers["Cache-Control"], "ETag" in answer.headers) == ("no-store", False)
    assert await api.events(f"/jobs/{job_id}/events") == whole
    assert (await api("HEAD", f"/jobs/{job_id}/events")).status == 405


async def test_a_log_that_is_gone_is_made_of_the_result(api: Api, hand: Hand, redis: Redis) -> None:
    job_id = await finished(hand)
    etag = (await api("GET", f"/jobs/{job_id}/events")).headers["ETag"]
    await redis.delete(f"darkq:events:{{0}}{job_id[2:]}")
    seen = [json.loads(event.data) for event in await api.events(f"/jobs/{job_id}/events")]
    assert [event["type"] for event in seen][-1] == "completed"
    assert "".join(event.get("text", "") for event in seen) == "ab"
    assert (await again(api, f"/jobs/{job_id}/events", etag)).status == 304


async def test_an_unchanged_job_is_not_read(
    api: Api, hand: Hand, redis: Redis, settings: Settings
) -> None:
    """Red when the log or the answer is read for a 304."""
    text = "x" * 200
    path = f"/jobs/{await finished(hand, text)}"

    async def sent_for(**headers: str) -> int:
        before = int((await redis.info("stats"))["total_net_output_bytes"])
        for what in READS:
            await api("GET", f"{path}/{what}", headers=headers)
        return int((await redis.info("stats"))["total_net_output_bytes"]) - before

    whole = await sent_for()
    assert whole - await sent_for(**{"If-None-Match": "*"}) > 200 * 50
