"""The native API, through a real server, with a real worker."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from darkq import Client, Options
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import decode_job
from darkq_gateway.native.jobs import NewJob
from darkq_local.faults import Fault
from integration.gateway.conftest import StartGateway
from support.http_api import Api
from support.waiting import wait_until

UNKNOWN = "0-" + "0" * 32
JSON = {"Content-Type": "application/json"}


async def test_a_job_runs_and_its_answer_is_that_of_the_library(
    api: Api, working: Any, client: Client
) -> None:
    await working()
    stored = await api("POST", "/jobs", {"prompt": "hello", "metadata": {"for": "me"}})
    assert stored.status == 201
    assert stored.headers["Location"] == f"/jobs/{stored.json['job_id']}"
    job_id = stored.json["job_id"]
    answer = await api("GET", f"/jobs/{job_id}/result?wait_s=20")
    assert answer.status == 200
    assert answer.json["text"] == (await client.job(job_id).result()).text != ""
    assert answer.json["metadata"] == {"for": "me"}
    status = await api("GET", f"/jobs/{job_id}")
    assert (status.status, status.json["state"]) == (200, "completed")


async def test_every_field_reaches_the_job(api: Api, client: Client) -> None:
    order = {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "model": "m",
        "upstream": "u",
        "priority": "bulk",
        "timeout_s": 1.5,
        "tries": 2,
        "metadata": {"a": "b"},
    }
    job_id = (await api("POST", "/jobs", order)).json["job_id"]
    status = await client.job(job_id).status()
    assert (status.model, status.upstream, status.metadata) == ("m", "u", {"a": "b"})
    assert status.tenant is None


async def test_options_reach_the_job_and_a_wrong_one_is_named(api: Api, redis: Redis) -> None:
    given = {"temperature": 0.5, "max_tokens": 9, "stop": ["."]}
    for path, body in (
        ("/jobs", {"prompt": "hi", "options": given}),
        ("/jobs:batch", {"jobs": [{"prompt": "hi", "options": given}]}),
    ):
        stored = await api("POST", path, body)
        assert stored.status == 201, stored.json
        (job_id,) = stored.json.get("job_ids", [stored.json.get("job_id")])
        record = decode_job(await redis.get(JobKeys.parse(job_id).job))
        assert record.job.options == Options(temperature=0.5, max_tokens=9, stop=(".",))
    for wrong, field in (
        ({"temperature": 9}, "options.temperature"),
        ({"temperatur": 1}, "options"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "options.max_completion_tokens"),
    ):
        refused = await api("POST", "/jobs", {"prompt": "hi", "options": wrong})
        assert (refused.status, refused.json["error"]["field"]) == (422, field)
    assert (await api("POST", "/jobs", {"prompt": "hi", "options": None})).status == 201


async def test_unsupported_options_are_left_out_on_request_and_named(
    api: Api, working: Any
) -> None:
    """Red when an option is ignored that nobody asked to ignore, or without a word."""
    await working(job_tries=1)
    for ignored, status in ((True, 200), (False, 409)):
        body = {"prompt": "hi", "options": {"temperature": 1}, "ignore_unsupported": ignored}
        job_id = (await api("POST", "/jobs", body)).json["job_id"]
        answer = await api("GET", f"/jobs/{job_id}/result?wait_s=20")
        assert answer.status == status, answer.json
        assert answer.json.get("ignored") == (["temperature"] if ignored else None)


async def test_a_setting_leaves_them_out_of_chat_requests(
    start_gateway: StartGateway, working: Any
) -> None:
    await working(job_tries=1)
    chat = {"messages": [{"role": "user", "content": "hi"}], "model": "llama-3-70b"}
    body = {**chat, "temperature": 1, "seed": 3}
    lenient = await start_gateway(gateway_ignore_unsupported=True)
    answer = await lenient("POST", "/v1/chat/completions", body)
    assert (answer.status, answer.json["ignored"]) == (200, ["seed", "temperature"])
    plain = await lenient("POST", "/v1/chat/completions", chat)
    assert "ignored" not in plain.json
    strict = await start_gateway()
    refused = await strict("POST", "/v1/chat/completions", body)
    assert (refused.status, refused.json["error"]["param"]) == (400, "temperature")


def test_a_job_without_options_encodes_as_before() -> None:
    """Red when the seed of an idempotent `POST /jobs:batch` changes with the gateway's version."""
    fields = json.loads(msgspec.json.encode(NewJob(prompt="hi")))
    assert not {"options", "ignore_unsupported"} & fields.keys()


async def test_an_answer_that_is_not_there_yet(api: Api) -> None:
    job_id = await api.enqueue()
    for query in ("", "?wait_s=0.05"):
        answer = await api("GET", f"/jobs/{job_id}/result{query}")
        assert (answer.status, answer.json["state"]) == (202, "queued")


async def test_a_job_is_cancelled_and_stays_so(api: Api) -> None:
    job_id = await api.enqueue()
    for _ in range(2):
        answer = await api("POST", f"/jobs/{job_id}/cancel")
        assert (answer.status, answer.json["state"]) == (200, "cancelled")
    answer = await api("GET", f"/jobs/{job_id}/result")
    assert (answer.status, answer.code) == (409, "job_cancelled")
    answer = await api("POST", f"/jobs/{job_id}/retry")
    assert (answer.status, answer.code) == (409, "cannot_retry")


async def test_a_running_job_is_cancelled_by_its_worker(api: Api, working: Any) -> None:
    darkai = await working(chunks=10_000, chunks_per_s=50)
    job_id = await api.enqueue()
    async with api.stream(f"/jobs/{job_id}/events") as events:
        types = []
        async for event in events:
            types.append(event.text)
            if '"chunk"' in event.text and len(types) < 5:
                await api("POST", f"/jobs/{job_id}/cancel")
    assert '"cancelled"' in types[-1]
    await wait_until("the upstream to be left", lambda: darkai.exchanges[0].ended_s)
    assert darkai.exchanges[0].outcome == "client left"


async def test_a_failed_job_is_run_again(api: Api, working: Any) -> None:
    await working(Fault.parse("status=400"))
    job_id = await api.enqueue()
    answer = await api("GET", f"/jobs/{job_id}/result?wait_s=20")
    assert (answer.status, answer.code) == (409, "job_failed")
    answer = await api("POST", f"/jobs/{job_id}/retry")
    assert answer.status == 200
    assert answer.json["job_id"] == job_id
    answer = await api("GET", f"/jobs/{job_id}/result?wait_s=20")
    assert answer.status == 200


async def test_an_idempotency_key_gives_the_same_job(api: Api) -> None:
    headers = {"Idempotency-Key": "order-17"}
    first = await api("POST", "/jobs", {"prompt": "a"}, headers=headers)
    second = await api("POST", "/jobs", {"prompt": "a"}, headers=headers)
    assert (first.status, second.status) == (201, 200)
    assert second.json == {**first.json, "duplicate": True}
    other = await api("POST", "/jobs", {"prompt": "b"}, headers=headers)
    assert (other.status, other.code) == (409, "idempotency_conflict")


async def test_many_jobs_in_one_call(api: Api, client: Client) -> None:
    answer = await api("POST", "/jobs:batch", {"jobs": [{"prompt": f"{n}"} for n in range(50)]})
    assert answer.status == 201
    assert len(set(answer.json["job_ids"])) == 50
    for job_id in answer.json["job_ids"]:
        assert (await client.job(job_id).status()).state == "queued"


async def test_a_batch_with_one_bad_job_stores_none(api: Api, redis: Redis) -> None:
    jobs = [{"prompt": "good"}, {"prompt": "good", "tries": 0}]
    answer = await api("POST", "/jobs:batch", {"jobs": jobs})
    assert (answer.status, answer.json["error"]["field"]) == (422, "jobs[1].tries")
    for bad in ([], [{"prompt": "x"}] * 1001):
        answer = await api("POST", "/jobs:batch", {"jobs": bad})
        assert (answer.status, answer.json["error"]["field"]) == (422, "jobs")
    assert await redis.dbsize() == 0


async def test_the_latest_jobs_are_listed_whatever_became_of_them(api: Api, working: Any) -> None:
    done = await api.enqueue()
    await working()
    await api("GET", f"/jobs/{done}/result?wait_s=20")
    waiting = await api.enqueue(upstream="none", timeout_s=5)
    stopped = (await api("POST", "/jobs:batch", {"jobs": [{"prompt": "x"}]})).json["job_ids"][0]
    await api("POST", f"/jobs/{stopped}/cancel")
    listed = await api("GET", "/jobs")
    assert [job["job_id"] for job in listed.json["jobs"]] == [stopped, waiting, done]
    assert listed.json["jobs"][2]["state"] == "completed"
    one = await api("GET", "/jobs?limit=1")
    assert [job["job_id"] for job in one.json["jobs"]] == [stopped]


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({}, None),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "prompt[0].role"),
        ({"prompt": "x", "proxy": "http://127.0.0.1:1"}, None),
        ({"prompt": "x", "tenant": "bob"}, None),
        ({"prompt": "x", "priority": "urgent"}, "priority"),
        ({"prompt": "x", "timeout_s": -1}, "timeout_s"),
        ({"prompt": "x", "tries": 10**30}, "tries"),
        ({"prompt": "x", "metadata": {"a": 1}}, "metadata[...]"),
        ({"prompt": "x", "model": "a\r\nSet-Cookie: b=c"}, "model"),
    ],
)
async def test_a_bad_order_is_refused_and_stores_nothing(
    api: Api, redis: Redis, order: dict[str, Any], field: str | None
) -> None:
    answer = await api("POST", "/jobs", order)
    assert (answer.status, answer.json["error"]["field"]) == (422, field)
    assert await redis.dbsize() == 0


async def test_a_prompt_that_is_too_large(api: Api, redis: Redis) -> None:
    body = io.BytesIO(json.dumps({"prompt": "x" * ((8 << 20) + 1)}).encode())
    answer = await api("POST", "/jobs", data=body, headers=JSON)
    assert (answer.status, answer.json["error"]["field"]) == (422, "prompt")
    assert await redis.dbsize() == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b'{"prompt": NaN}', b"[" * 100_000,
     b'{"prompt": "\\ud800"}', b'{"prompt": "x"} trailing'],
)  # fmt: skip
async def test_what_is_no_order_is_refused(api: Api, redis: Redis, body: bytes) -> None:
    answer = await api("POST", "/jobs", data=body, headers=JSON)
    assert answer.status in (400, 422)
    assert await redis.dbsize() == 0


async def test_only_json_is_taken(api: Api, redis: Redis) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await api("POST", "/jobs", data=b'{"prompt":"x"}', headers={"Content-Type": kind})
        assert (answer.status, answer.code) == (415, "not_json")
    assert await redis.dbsize() == 0


@pytest.mark.parametrize(
    "path",
    [UNKNOWN, "x", "..%2f..%2fetc%2fpasswd", "%00", "0-%0d%0aX:%20y", "{0}" + "0" * 32, "%ff",
     "0-" + "0" * 33, "9" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("what", ["", "/events", "/result"])
async def test_an_id_that_is_none_is_not_found(api: Api, path: str, what: str) -> None:
    from yarl import URL

    url = URL(f"{api.url}/jobs/{path}{what}", encoded=True)
    async with api.http.get(url) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] in ("job_not_found", "not_found")
        assert not {"X", "x"} & set(response.headers)


async def test_a_closed_queue_is_503_and_says_when_to_come_again(api: Api, client: Client) -> None:
    await client.queue("interactive").close(why="not for strangers' eyes")
    answer = await api("POST", "/jobs", {"prompt": "x"})
    assert (answer.status, answer.code) == (503, "queue_closed")
    assert answer.headers["Retry-After"] == "30"
    assert "strangers" not in str(answer.json)
    bulk = {"prompt": "x", "priority": "bulk"}
    assert (await api("POST", "/jobs", bulk)).status == 201
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    answer = await api("POST", "/v1/chat/completions", chat)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")


async def test_redis_away_is_503_and_comes_back(start_gateway: Any, make_settings: Any) -> None:
    from support.servers import binaries, running

    with running(binaries()["valkey"]) as server:
        api = await start_gateway(redis_url=server.url, redis_patience_s=0.1)
        assert (await api("GET", "/readyz")).status == 200
        server.stop()
        answer = await api("POST", "/jobs", {"prompt": "x"})
        assert (answer.status, answer.code) == (503, "unavailable")
        assert answer.headers["Retry-After"]
        assert (await api("GET", "/readyz")).status == 503
        assert (await api("GET", "/healthz")).status == 200
        server.start()

        async def ready() -> bool:
            return bool((await api("GET", "/readyz")).status == 200)

        await wait_until("Redis", ready)
        await api.enqueue()


async def test_many_callers_at_once(api: Api) -> None:
    ids = await asyncio.gather(*(api.enqueue(f"{n}") for n in range(100)))
    assert len(set(ids)) == 100
