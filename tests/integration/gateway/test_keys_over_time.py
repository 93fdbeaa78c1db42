"""What a key allows, on jobs that another key has made and on calls that go on for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from darkq import Client
from darkq.protocol.keys import api_key_use
from darkq.redis import scripts
from darkq_gateway.http import auth
from darkq_local.faults import Fault
from support.http_api import Api
from support.waiting import wait_until

BEFORE_END = (aiohttp.ClientError, ConnectionError)


async def failed_job(caller: Api, prompt: str = "hello", **fields: Any) -> str:
    """A job that a worker has given up; `working` must be there with a fault planned."""
    job_id = await caller.enqueue(prompt, tries=1, **fields)
    answer = await caller("GET", f"/jobs/{job_id}/result?wait_s=20")
    assert answer.code == "job_failed", answer
    return job_id


@pytest.mark.parametrize(
    ("limits", "job", "status", "code"),
    [
        ({"models": ["gpt-4o"]}, {"model": "llama-3-70b"}, 403, "model_not_allowed"),
        ({"models": ["gpt-4o"]}, {}, 403, "model_not_allowed"),
        ({"max_prompt_bytes": 10}, {"prompt": "x" * 11}, 413, "prompt_too_large"),
        ({"models": ["gpt-4o"]}, {"model": "gpt-4o"}, 200, None),
        ({"max_prompt_bytes": 10}, {"prompt": "x" * 10}, 200, None),
    ],
)
async def test_a_key_runs_again_only_what_it_may_run(
    api: Api,
    make_key: Any,
    start_darkai: Any,
    start_worker: Any,
    make_settings: Any,
    limits: Any,
    job: Any,
    status: int,
    code: str | None,
) -> None:
    """Red when `retry` does not look at the job that is kept."""
    darkai = await start_darkai(Fault.parse("truncate=1"))
    start_worker(make_settings(darkai_url=darkai.url))
    one, two = await make_key("web", tenant="shop"), await make_key("cron", tenant="shop", **limits)
    async with api.with_key(one) as web, api.with_key(two) as cron:
        job_id = await failed_job(web, **job)
        answer = await cron("POST", f"/jobs/{job_id}/retry")
        assert answer.status == status, answer
        if code is not None:
            assert answer.code == code
            assert (await web("GET", f"/jobs/{job_id}")).json["state"] == "failed"
            assert (await web("POST", f"/jobs/{job_id}/retry")).status == 200
        done = await cron("POST", f"/jobs/{'0-' + '0' * 32}/retry")
        assert done.code == "job_not_found"


async def test_a_limited_key_retries_what_cannot_be_retried(api: Api, make_key: Any) -> None:
    async with api.with_key(await make_key(max_prompt_bytes=10)) as caller:
        job_id = await caller.enqueue()
        answer = await caller("POST", f"/jobs/{job_id}/retry")
        assert (answer.status, answer.code) == (409, "cannot_retry")
        assert "queued" in answer.json["error"]["message"]


async def test_a_tenant_is_not_told_of_models_that_its_key_may_not_see(
    api: Api, make_key: Any, working: Any, client: Client
) -> None:
    """Red when the worker's message names what it serves to a tenant's job."""
    await working()
    async with api.with_key(await make_key(models=["ghost"])) as caller:
        for fields in ({"model": "ghost"}, {"upstream": "ghost", "model": "ghost"}):
            job_id = await failed_job(caller, **fields)
            told = str((await caller("GET", f"/jobs/{job_id}/result")).json)
            told += str(await caller.events(f"/jobs/{job_id}/events"))
            assert "unknown" in told
            assert "gpt-4o" not in told
            assert "darkai" not in told
    job = await client.enqueue("x", model="ghost")
    with pytest.raises(Exception, match=r"known: .*gpt-4o"):
        await job.result(timeout_s=10)


@pytest.fixture
async def open_calls() -> AsyncIterator[Any]:
    """Begin calls that go on for as long as their key is good."""
    async with AsyncExitStack() as stack:

        async def begin(caller: Api) -> dict[str, asyncio.Task[int]]:
            job_id = await caller.enqueue()
            body = {"model": "m", "input": "hi", "background": True}
            response = (await caller("POST", "/v1/responses", body)).json["id"]
            chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            calls = {
                "/jobs/…/events": ("GET", f"/jobs/{job_id}/events", None),
                "/v1/responses/…": ("GET", f"/v1/responses/{response}?stream=true", None),
                "/board/overview": ("GET", "/board/overview", None),
                "chat": ("POST", "/v1/chat/completions", {**chat, "stream": True}),
                "/jobs/…/result": ("GET", f"/jobs/{job_id}/result?wait_s=60", None),
            }

            async def read(method: str, path: str, body: Any) -> int:
                async with caller.http.request(method, caller.url + path, json=body) as answer:
                    await answer.read()
                    return answer.status

            tasks = {name: asyncio.create_task(read(*call)) for name, call in calls.items()}
            for task in tasks.values():
                stack.callback(task.cancel)
            return tasks

        yield begin


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_streams_end_soon_after_their_key(
    make_key: Any,
    client: Client,
    redis: Redis,
    open_calls: Any,
    monkeypatch: pytest.MonkeyPatch,
    start_gateway: Any,
    how: str,
) -> None:
    """Red when a key is looked at once, at the beginning of a call."""
    assert auth.CHECK_INTERVAL_S * 2 <= 30
    monkeypatch.setattr(auth, "CHECK_INTERVAL_S", 0.05)
    api, kept = await start_gateway(), await make_key("alice")
    key, secret = await client.api_keys.create("alice", concurrency=99)
    async with api.with_key(secret) as caller, api.with_key(kept) as other:
        job_id = await other.enqueue()
        async with other.stream(f"/jobs/{job_id}/events") as events:
            await anext(events)
            calls = await open_calls(caller)

            async def all_run() -> bool:
                return bool(await redis.zcard(api_key_use(key.id)[1]) == len(calls))

            await wait_until("all calls to run", all_run)
            if how == "revoked":
                await client.api_keys.revoke(key.id)
            else:
                (name,) = [n for n in await redis.keys("darkq:key:*") if key.id in n.decode()]
                await redis.pexpire(name, 50)
            async with asyncio.timeout(10):
                ends = await asyncio.gather(*calls.values(), return_exceptions=True)
            for name, end in zip(calls, ends, strict=True):  # 401: aiohttp asks a second time
                assert end == 401 or isinstance(end, BEFORE_END), (name, end)
            await client.job(job_id).cancel()
            assert b'"cancelled"' in [event.data async for event in events][-1]


async def test_whoever_was_let_in_without_a_key_goes_when_there_is_one(
    make_key: Any, start_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "CHECK_INTERVAL_S", 0.05)
    api = await start_gateway()
    async with api.stream("/board/overview") as events:
        for _ in range(3):  # one a second: it is attended, and goes on
            await anext(events)
        await make_key()
        with pytest.raises(BEFORE_END):
            async for _ in events:
                pass


async def test_calls_are_attended_after_whatever_went_wrong(
    make_key: Any, start_gateway: Any, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    """Red when the task that attends the calls ends with an error nobody foresaw."""
    monkeypatch.setattr(auth, "CHECK_INTERVAL_S", 0.05)
    api = await start_gateway()
    key, secret = await client.api_keys.create("alice")
    failures: list[int] = []

    async def fail(*_: object) -> set[str]:
        failures.append(1)
        raise ValueError("BUSY")

    async with api.with_key(secret) as caller, caller.stream("/board/overview") as events:
        await anext(events)
        with monkeypatch.context() as broken:
            broken.setattr(type(client.api_keys), "good", fail)
            await wait_until("two failures", lambda: len(failures) > 1)
        await client.api_keys.revoke(key.id)
        with pytest.raises(BEFORE_END):
            async for _ in events:
                pass


@pytest.mark.parametrize(
    "limits", [{"rate_per_s": 2}, {"concurrency": 1}, {"rate_per_s": 1, "concurrency": 1}]
)
async def test_a_call_that_is_sent_twice_counts_once(
    client: Client, redis: Redis, limits: dict[str, Any]
) -> None:
    """A client repeats a call whose reply was lost. Red when apikey_enter.lua counts it again."""
    key, _ = await client.api_keys.create("alice", **limits)
    for _ in range(3):
        assert (await client.api_keys.enter(key, "one", lease_s=30)).outcome == "entered"
    if "concurrency" not in limits:
        assert (await client.api_keys.enter(key, "two", lease_s=30)).outcome == "entered"
    expected = "places" if "concurrency" in limits else "rate"
    assert (await client.api_keys.enter(key, "three", lease_s=30)).outcome == expected
    assert (await client.api_keys.enter(key, "one", lease_s=30)).outcome == "entered"
    await client.api_keys.leave(key, "one")
    if "rate_per_s" not in limits:
        assert (await client.api_keys.enter(key, "three", lease_s=30)).outcome == "entered"


async def test_a_rate_is_used_up_at_most_after_the_clock_of_redis_was_set_back(
    client: Client, redis: Redis
) -> None:
    """Red when apikey_enter.lua believes what it has noted: the key is refused for that hour."""
    names = api_key_use("key")
    used_ms = (int((await redis.time())[0]) + 3600) * 1000
    await redis.set(names[0], used_ms, px=3_600_000)
    entered = await scripts.apikey_enter(
        redis, "key", "call", interval_ms=100, burst=2, concurrency=0, lease_s=30
    )
    assert entered == ("rate", 0.1)


async def test_what_is_noted_of_calls_is_bounded(client: Client, redis: Redis) -> None:
    key, _ = await client.api_keys.create("alice", rate_per_s=100_000)
    names = api_key_use(key.id)
    for n in range(1100):
        await scripts.apikey_enter(
            redis,
            key.id,
            f"call {n}",
            interval_ms=0.01,
            burst=100_000,
            concurrency=0,
            lease_s=30,
        )
    assert await redis.zcard(names[1]) == 1000
    assert 0 < await redis.pttl(names[1]) <= 30_000
