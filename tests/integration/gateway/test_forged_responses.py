"""Nobody but a gateway writes what a Response is read from, and nothing stored there is a 500."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from darkq import Job
from darkq.protocol.job import RESERVED_METADATA
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import Arguments, JobRecord, encode
from support.by_hand import put
from support.http_api import Api

FORGED = '{"id":"resp_x","status":"completed","output":[],"background":true}'
DEEP = "[" * 7000 + "]" * 7000
MALFORMED = [
    "", "x", "5", "[]", '"x"', '{"a":' + DEEP + "}", '{"temperature":"hot"}', '{"metadata":5}',
    '{"metadata":{"a":1}}', '{"background":"yes"}', '{"max_output_tokens":1.5}', '{"top_p":[]}',
]  # fmt: skip
IGNORED = [
    FORGED, '{"output":5}', '{"output":[1]}', '{"output":[{"content":5}]}', '{"id":5}',
    '{"error":{"code":1}}', '{"created_at":"x"}',
]  # fmt: skip


@pytest.mark.parametrize("name", [RESERVED_METADATA, f"{RESERVED_METADATA}2"])
async def test_a_client_cannot_write_what_a_response_is_read_from(
    api: Api, redis: Redis, name: str
) -> None:
    """Red without the check of reserved names in `checked_metadata`."""
    metadata = {name: FORGED}
    messages = [{"role": "user", "content": "hi"}]
    for path, body in (
        ("/jobs", {"prompt": "hi"}),
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": messages}),
        ("/v1/responses", {"model": "gpt-4o", "input": "hi", "background": True}),
    ):
        answer = await api("POST", path, {**body, "metadata": metadata})
        assert answer.status == (422 if path == "/jobs" else 400), (path, answer)
        error = answer.json["error"]
        assert (error.get("field") or error.get("param")) == "metadata"
        assert "reserved" in error["message"]
    answer = await api("POST", "/jobs:batch", {"jobs": [{"prompt": "hi", "metadata": metadata}]})
    assert (answer.status, answer.json["error"]["field"]) == (422, "jobs[0].metadata")
    assert await redis.dbsize() == 0


async def put_with(redis: Redis, repeated: str) -> str:
    """Store a job with such a note, as an older gateway let clients do."""
    keys, metadata = JobKeys.new(0), {RESERVED_METADATA: repeated}
    job = msgspec.structs.replace(Job.create("hi"), metadata=metadata)
    await put(redis, keys, record=encode(JobRecord(k=Arguments(job), et=1)))
    return keys.public_id


def routes_of(job_id: str) -> list[tuple[str, str]]:
    response = f"/v1/responses/resp_{job_id}"
    return [("GET", response), ("POST", f"{response}/cancel"), ("DELETE", response)]


@pytest.mark.parametrize("repeated", MALFORMED, ids=lambda text: text[:24])
async def test_a_malformed_note_is_no_response(api: Api, redis: Redis, repeated: str) -> None:
    """Red when any JSON object passes, or `RecursionError` is not caught."""
    job_id = await put_with(redis, repeated)
    for method, path in [*routes_of(job_id), ("GET", f"{routes_of(job_id)[0][1]}?stream=true")]:
        answer = await api(method, path)
        assert (answer.status, answer.code) == (404, "job_not_found"), (method, path)
    assert (await api("GET", f"/jobs/{job_id}")).json["state"] == "queued"


@pytest.mark.parametrize("repeated", IGNORED)
async def test_only_what_a_request_said_is_repeated(api: Api, redis: Redis, repeated: str) -> None:
    """Red when a note may set any field of a Response."""
    job_id = await put_with(redis, repeated)
    (_, path), (_, cancel), (_, delete) = routes_of(job_id)
    response = (await api("GET", path)).json
    assert (response["id"], response["status"]) == (f"resp_{job_id}", "queued")
    assert (response["output"], response["error"], type(response["created_at"])) == ([], None, int)
    assert (await api("POST", cancel)).status == (200 if "background" in repeated else 400)
    assert (await api("DELETE", delete)).status == 200


async def test_a_response_repeats_its_request(api: Api) -> None:
    asked = {"temperature": 1, "max_output_tokens": 20, "metadata": {"order": "17"}}
    body = {"model": "gpt-4o", "input": "hi", "background": True, **asked}
    made = (await api("POST", "/v1/responses", body)).json
    again = (await api("GET", f"/v1/responses/{made['id']}")).json
    assert {name: again[name] for name in asked} == asked
    assert again == made


@pytest.mark.parametrize(
    "metadata", [{f"{n}": "" for n in range(257)}, {"k": "v" * (16 << 10)}], ids=["many", "long"]
)
@pytest.mark.parametrize("path", ["/jobs", "/v1/responses", "/v1/chat/completions", "/v1/batches"])
async def test_metadata_is_bounded_wherever_it_comes_in(
    api: Api, redis: Redis, path: str, metadata: Any
) -> None:
    """Red for batches without `checked_metadata`, and for pairs without their bound."""
    bodies: dict[str, dict[str, Any]] = {
        "/jobs": {"prompt": "hi"},
        "/v1/responses": {"model": "gpt-4o", "input": "hi"},
        "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        "/v1/batches": {
            "input_file_id": "file-" + "0" * 32,
            "endpoint": "/v1/responses",
            "completion_window": "24h",
        },
    }
    answer = await api("POST", path, {**bodies[path], "metadata": metadata})
    error = answer.json["error"]
    assert answer.status == (422 if path == "/jobs" else 400)
    assert (error.get("field") or error.get("param")) == "metadata"
    assert await redis.dbsize() == 0


@pytest.mark.parametrize(
    "metadata", [{f"{n}": "" for n in range(17)}, {"k" * 65: ""}, {"k": "é" * 513}]
)
async def test_metadata_of_batches_has_openais_bounds(api: Api, metadata: dict[str, str]) -> None:
    body = {
        "input_file_id": "file-" + "0" * 32,
        "endpoint": "/v1/responses",
        "completion_window": "24h",
    }
    answer = await api("POST", "/v1/batches", {**body, "metadata": metadata})
    assert (answer.status, answer.json["error"]["param"]) == (400, "metadata")
    most = {f"{n:064}": "é" * 512 for n in range(15)}
    answer = await api("POST", "/v1/batches", {**body, "metadata": most})
    assert (answer.status, answer.code) == (404, "file_not_found")
