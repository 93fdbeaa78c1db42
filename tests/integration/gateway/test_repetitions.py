"""Requests that make many things, sent again: with a key, or by an SDK that counts its tries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from redis.asyncio import Redis

from darkq.protocol.keys import BatchKeys
from support.http_api import Api

JOBS = {"jobs": [{"prompt": f"p{n}"} for n in range(5)]}
LINE = (
    b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}'
)
ASKED: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.fixture
async def stored(api: Api) -> str:
    """A file for batches."""
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as sdk:
        return (await sdk.files.create(file=LINE, purpose="batch")).id


async def post(api: Api, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await api("POST", path, body, headers=names)
    return answer.status, answer.json


@pytest.mark.parametrize("path", ["/jobs:batch", "/v1/batches"])
@pytest.mark.parametrize(
    ("first", "again"),
    [
        ({"Idempotency_Key": "k"}, {"Idempotency_Key": "k"}),
        ({"x_stainless_retry_count": "0"}, {"x_stainless_retry_count": "1"}),
    ],
)
async def test_a_repeated_request_makes_nothing_new(
    api: Api, stored: str, redis: Redis, path: str, first: dict[str, str], again: dict[str, str]
) -> None:
    """Red when the key, or the count, is not read: everything would be done twice."""
    body = JOBS if path == "/jobs:batch" else {**ASKED, "input_file_id": stored}
    made = await post(api, path, body, **first)
    assert made[0] in (200, 201)
    repeated = [await post(api, path, body, **again) for _ in range(2)]
    assert [_ids(answer) for _, answer in repeated] == [_ids(made[1])] * 2
    if path == "/jobs:batch":
        assert await redis.zcard("darkq:{0}:interactive") == 5
    else:
        assert await redis.zcard("darkq:{files}:open") == 1


def _ids(answer: Any) -> Any:
    return answer.get("job_ids") or answer["id"]


@pytest.mark.parametrize("path", ["/jobs:batch", "/v1/batches"])
async def test_requests_that_are_no_repetitions_make_others(
    api: Api, stored: str, path: str
) -> None:
    body = JOBS if path == "/jobs:batch" else {**ASKED, "input_file_id": stored}
    headers: list[dict[str, str]] = [
        {},
        {},
        {"x_stainless_retry_count": "0"},
        {"x_stainless_retry_count": "0"},
        {"Idempotency_Key": "a"},
        {"Idempotency_Key": "b"},
    ]
    made = [str(_ids((await post(api, path, body, **each))[1])) for each in headers]
    assert len(set(made)) == len(headers)


@pytest.mark.parametrize("path", ["/jobs:batch", "/v1/batches"])
async def test_a_key_with_another_body_is_refused(api: Api, stored: str, path: str) -> None:
    body: dict[str, Any] = JOBS if path == "/jobs:batch" else {**ASKED, "input_file_id": stored}
    other = (
        {"jobs": JOBS["jobs"][:4]} if path == "/jobs:batch" else {**body, "metadata": {"a": "b"}}
    )
    await post(api, path, body, Idempotency_Key="k")
    status, answer = await post(api, path, other, Idempotency_Key="k")
    assert (status, answer["error"]["code"]) == (409, "idempotency_conflict")
    status, _ = await post(api, path, body, Idempotency_Key="x" * 256)
    assert status == 422 or status == 400


async def test_keys_of_tenants_do_not_meet(
    api: Api, make_key: Callable[..., Awaitable[str]]
) -> None:
    made = []
    for tenant in ("alice", "bob"):
        key = await make_key(tenant)
        answer = await post(
            api, "/jobs:batch", JOBS, Authorization=f"Bearer {key}", Idempotency_Key="k"
        )
        made.append(answer[1]["job_ids"])
    assert not set(made[0]) & set(made[1])


async def test_a_try_that_was_broken_off_is_finished_by_the_next(
    api: Api, stored: str, redis: Redis
) -> None:
    """Red when what there is of the first try counts as all: no worker would find the batch."""
    body = {**ASKED, "input_file_id": stored}
    _, made = await post(api, "/v1/batches", body, Idempotency_Key="k")
    await redis.zrem("darkq:{files}:open", made["id"])
    await post(api, "/v1/batches", body, Idempotency_Key="k")
    assert await redis.zscore("darkq:{files}:open", made["id"]) is not None
    await redis.delete(BatchKeys.parse(made["id"]).files)
    _, again = await post(api, "/v1/batches", body, Idempotency_Key="k")
    assert again["id"] == made["id"]


async def test_tries_at_the_same_time_make_one_batch(api: Api, stored: str, redis: Redis) -> None:
    body = {**ASKED, "input_file_id": stored}
    tries = [post(api, "/v1/batches", body, Idempotency_Key="k") for _ in range(5)]
    answers = await asyncio.gather(*tries)
    assert [status for status, _ in answers] == [200] * 5
    assert len({answer["id"] for _, answer in answers}) == 1
    assert await redis.zcard("darkq:{files}:open") == 1


async def test_the_input_of_an_open_batch_is_not_deleted(api: Api, stored: str) -> None:
    """Red when it may be deleted at any time: the batch could only fail."""
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as sdk:
        batch = await sdk.batches.create(input_file_id=stored, **ASKED)
        with pytest.raises(openai.ConflictError) as refused:
            await sdk.files.delete(stored)
        assert batch.id in str(refused.value)
        assert (await sdk.files.retrieve(stored)).id == stored
        other = await sdk.files.create(file=LINE, purpose="batch")
        assert (await sdk.files.delete(other.id)).deleted
