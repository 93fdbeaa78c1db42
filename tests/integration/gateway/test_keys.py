"""API keys and tenants: who may call, what a key allows, and that tenants do not meet."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from darkq import ApiKeyNotFound, Client, ConfigurationError, InvalidJob
from darkq_gateway.serve import gateway
from support.http_api import Answer, Api
from support.waiting import wait_until

UNKNOWN = "0-" + "0" * 32


@pytest.fixture
async def alice(api: Api, make_key: Any) -> Any:
    async with api.with_key(await make_key("alice")) as caller:
        yield caller


@pytest.fixture
async def bob(api: Api, make_key: Any) -> Any:
    async with api.with_key(await make_key("bob")) as caller:
        yield caller


def same(one: Answer, other: Answer) -> bool:
    """The same answer, but for its id and the time of day."""
    own = {"X-Request-ID", "Date"}
    heads = [{k: v for k, v in a.headers.items() if k not in own} for a in (one, other)]
    return (one.status, one.json, heads[0]) == (other.status, other.json, heads[1])


async def test_once_there_is_a_key_nobody_comes_in_without(api: Api, make_key: Any) -> None:
    assert (await api("GET", "/jobs")).status == 200
    key = await make_key()
    answer = await api("GET", "/jobs")
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    async with api.with_key(key) as caller:
        assert (await caller("GET", "/jobs")).status == 200


async def test_revoking_the_last_key_does_not_open_the_door(
    api: Api, make_key: Any, client: Client
) -> None:
    async with api.with_key(await make_key()) as caller:
        assert (await caller("GET", "/jobs")).status == 200
        assert (await api("GET", "/jobs")).status == 401
        (key,) = await client.api_keys.listed()
        await client.api_keys.revoke(key.id)
        assert (await caller("GET", "/jobs")).status == 401
        assert (await api("GET", "/jobs")).status == 401
        with pytest.raises(ApiKeyNotFound):
            await client.api_keys.revoke(key.id)


async def test_a_key_is_stored_as_a_hash_alone(client: Client, redis: Redis) -> None:
    key, secret = await client.api_keys.create("alice")
    assert secret.startswith("darkq_")
    assert len(secret) >= 49
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert await redis.exists(f"darkq:key:{digest}")
    for name in await redis.keys():
        kind = (await redis.type(name)).decode()
        command = "GET" if kind == "string" else "SMEMBERS"
        value = await redis.execute_command(command, name)
        assert secret.removeprefix("darkq_")[:8] not in f"{name} {value}"
    assert secret not in repr(key)


async def test_keys_that_are_none_get_401_and_nothing_else(
    api: Api, make_key: Any, redis: Redis
) -> None:
    good = await make_key()
    size = await redis.dbsize()
    guesses = [
        "", "x", good[:-1], good + "x", good.swapcase(), good.replace("darkq_", "sk-"), "é" * 49,
        *("darkq_" + f"{n:043}" for n in range(50)),
    ]  # fmt: skip
    answers = await asyncio.gather(
        *(
            api("GET", f"/jobs/{UNKNOWN}", headers={"Authorization": f"Bearer {guess}"})
            for guess in guesses
        )
    )
    assert {(answer.status, answer.code) for answer in answers} == {(401, "invalid_api_key")}
    for scheme in ("Basic", "", "Digest"):
        answer = await api("GET", "/jobs", headers={"Authorization": f"{scheme} {good}"})
        assert answer.status == 401
    assert await redis.dbsize() == size


async def test_a_key_expires(api: Api, make_key: Any) -> None:
    async with api.with_key(await make_key(ttl_s=0.2)) as caller:
        assert (await caller("GET", "/jobs")).status == 200

        async def expired() -> bool:
            return bool((await caller("GET", "/jobs")).status == 401)

        await wait_until("the key to expire", expired)


async def test_tenants_do_not_meet(alice: Api, bob: Api, client: Client) -> None:
    job_id = await alice.enqueue("secret")
    assert (await alice("GET", f"/jobs/{job_id}")).json["tenant"] == "alice"
    for method, what in [
        ("GET", ""), ("GET", "/result"), ("GET", "/result?wait_s=0.1"), ("GET", "/events"),
        ("GET", "/events?after=0-1"), ("POST", "/cancel"), ("POST", "/retry"),
    ]:  # fmt: skip
        foreign = await bob(method, f"/jobs/{job_id}{what}")
        unknown = await bob(method, f"/jobs/{UNKNOWN}{what}")
        assert foreign.status == 404
        assert same(foreign, unknown)
    assert (await alice("GET", f"/jobs/{job_id}")).json["state"] == "queued"
    assert (await bob("GET", "/jobs")).json == {"jobs": []}
    assert len((await alice("GET", "/jobs")).json["jobs"]) == 1


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_a_job_that_has_ended_stays_its_tenants(
    alice: Api, bob: Api, working: Any, end: str
) -> None:
    job_id = await alice.enqueue(**({"model": "gpt-9"} if end == "failed" else {}))
    if end == "cancelled":
        await alice("POST", f"/jobs/{job_id}/cancel")
    else:
        await working()
        await alice("GET", f"/jobs/{job_id}/result?wait_s=20")
    assert (await alice("GET", f"/jobs/{job_id}")).json["state"] == end
    for what in ("", "/result", "/events"):
        assert (await bob("GET", f"/jobs/{job_id}{what}")).status == 404
    assert [job["job_id"] for job in (await alice("GET", "/jobs")).json["jobs"]] == [job_id]


async def test_jobs_without_a_tenant_are_no_tenants(alice: Api, client: Client) -> None:
    job = await client.enqueue("from a script")
    assert (await alice("GET", f"/jobs/{job.id}")).status == 404


async def test_idempotency_keys_are_a_tenants_own(alice: Api, bob: Api, client: Client) -> None:
    headers = {"Idempotency-Key": "order-17"}
    first = await alice("POST", "/jobs", {"prompt": "a"}, headers=headers)
    other = await bob("POST", "/jobs", {"prompt": "b"}, headers=headers)
    assert (first.status, other.status) == (201, 201)
    assert (await client.enqueue("c", idempotency_key="order-17")).duplicate is False
    again = await alice("POST", "/jobs", {"prompt": "a"}, headers=headers)
    assert (again.status, again.json["job_id"]) == (200, first.json["job_id"])


async def test_keys_of_one_tenant_share_its_jobs(api: Api, make_key: Any) -> None:
    one, two = await make_key("web", tenant="shop"), await make_key("cron", tenant="shop")
    async with api.with_key(one) as web, api.with_key(two) as cron:
        job_id = await web.enqueue()
        assert (await cron("GET", f"/jobs/{job_id}")).status == 200


async def test_a_rate_is_shared_by_all_gateways(start_gateway: Any, make_key: Any) -> None:
    key = await make_key(rate_per_s=5)
    first, second = await start_gateway(), await start_gateway()
    async with first.with_key(key) as one, second.with_key(key) as two:
        answers = [await caller("GET", "/jobs") for _ in range(5) for caller in (one, two)]
        assert [answer.status for answer in answers[:5]] == [200] * 5
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) >= 3
        assert refused[0].code == "rate_limited"
        assert int(refused[0].headers["Retry-After"]) == 1
        assert 0 < int(refused[0].headers["Retry-After-Ms"]) <= 200

        async def again() -> bool:
            return bool((await one("GET", "/jobs")).status == 200)

        await wait_until("its next call", again, timeout_s=2)


async def test_calls_at_once_are_bounded_and_streams_count(
    start_gateway: Any, make_key: Any, redis: Redis
) -> None:
    key = await make_key(concurrency=2)
    first, second = await start_gateway(), await start_gateway()
    async with first.with_key(key) as one, second.with_key(key) as two:
        job_id = await one.enqueue()
        path = f"/jobs/{job_id}/events"
        async with one.stream(path) as events:
            await anext(events)
            async with two.stream(path) as more:
                await anext(more)
                answer = await one("GET", "/jobs")
                assert (answer.status, answer.code) == (429, "too_many_calls")
                assert answer.headers["Retry-After"] == "1"

            async def again() -> bool:
                return bool((await two("GET", "/jobs")).status == 200)

            await wait_until("the place of the one that left", again)


async def test_a_keys_own_bounds(api: Api, make_key: Any, client: Client) -> None:
    key = await make_key(max_prompt_bytes=5, models=("small", "tiny"))
    async with api.with_key(key) as caller:
        answer = await caller("POST", "/jobs", {"prompt": "ééé"})
        assert (answer.status, answer.code) == (413, "prompt_too_large")
        answer = await caller("POST", "/jobs", {"prompt": "x", "model": "huge"})
        assert (answer.status, answer.code) == (403, "model_not_allowed")
        answer = await caller("POST", "/jobs:batch", {"jobs": [{"prompt": "x", "model": "huge"}]})
        assert answer.status == 403
        for model, got in (("tiny", "tiny"), (None, "small")):
            job_id = await caller.enqueue("x", model=model)
            assert (await client.job(job_id).status()).model == got


async def test_a_keys_own_bound_of_bodies(api: Api, make_key: Any, redis: Redis) -> None:
    async with api.with_key(await make_key(max_body_bytes=60)) as caller:
        assert (await caller("POST", "/jobs", {"prompt": "x"})).status == 201
        known = await redis.dbsize()
        for path, body in (
            ("/jobs", {"prompt": "x" * 60}),
            ("/v1/responses", {"model": "m", "input": "x" * 60}),
        ):
            answer = await caller("POST", path, body)
            assert (answer.status, answer.code) == (413, "body_too_large")
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", b"x" * 61, filename="in.jsonl")
        answer = await caller("POST", "/v1/files", data=form)
        assert (answer.status, answer.code) == (413, "file_too_large")
        assert await redis.dbsize() <= known


@pytest.mark.parametrize(
    "limits",
    [
        {"name": ""}, {"name": "a\nb"}, {"tenant": ""}, {"rate_per_s": -1},
        {"rate_per_s": float("nan")}, {"concurrency": 0}, {"max_prompt_bytes": -1},
        {"models": ["a\n"]}, {"ttl_s": -1},
    ],
)  # fmt: skip
async def test_a_key_that_makes_no_sense_is_not_made(
    client: Client, redis: Redis, limits: dict[str, Any]
) -> None:
    with pytest.raises(InvalidJob) as caught:
        await client.api_keys.create(**{"name": "n", **limits})
    assert caught.value.field == next(iter(limits))
    assert await redis.dbsize() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_without_a_key_it_listens_nowhere_but_on_loopback(
    make_settings: Any, make_key: Any, host: str
) -> None:
    settings = make_settings(gateway_host=host, gateway_port=0)
    with pytest.raises(ConfigurationError, match="darkq keys create"):
        async with gateway(settings):
            pass
    key = await make_key()
    async with gateway(settings) as url:
        port = url.rsplit(":", 1)[1]
        loopback = "[::1]" if ":" in host else "127.0.0.1"
        async with Api(f"http://{loopback}:{port}", key) as caller:
            assert (await caller("GET", "/jobs")).status == 200
