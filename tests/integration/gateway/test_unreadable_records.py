"""Records that this gateway cannot read: a clear answer to their tenant, and none to others."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from redis.asyncio import Redis

import darkq
from darkq.protocol.keys import BatchKeys, JobKeys
from darkq_gateway.http.errors import convert_error
from support.by_hand import put
from support.http_api import Api

NEVER_HERE = {
    "ApiKeyNotFound": "keys are managed by the command",
    "AttemptSuperseded": "raised by JobHandle.text alone",
    "BatchClosed": "a gateway adds no lines",
    "BatchFull": "a gateway adds no lines",
    "BatchTaken": "a gateway runs no batch, and makes each under an id of its own",
    "CannotMove": "queues are moved by the command",
    "ConfigurationError": "raised at the start",
    "JobCancelled": "each handler has its own answer",
    "JobFailed": "each handler has its own answer",
    "ResultTimeout": "answered with 202",
    "WorkerNotFound": "workers are drained by the command",
}


def errors_of_darkq() -> list[type[darkq.DarkqError]]:
    kinds, found = [darkq.DarkqError], []
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found.append(kind)
    return [kind for kind in found if kind.__module__ == "darkq.errors" and kind not in found[:1]]


@pytest.mark.parametrize("kind", errors_of_darkq(), ids=lambda kind: kind.__name__)
def test_every_error_that_may_come_here_has_an_answer(kind: type[darkq.DarkqError]) -> None:
    """Red when a new error of darkq is neither answered nor said to come never."""
    wanted = [
        each
        for each in inspect.signature(kind).parameters.values()
        if each.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    known = convert_error(
        kind(*(1 if each.annotation in ("int", "float") else "x" for each in wanted))
    )
    if kind.__name__ in NEVER_HERE:
        assert known is None
    else:
        assert known is not None
        assert known.status in range(400, 500) or known.status == 503


def unreadable(tenant: str | None, version: int) -> bytes:
    job = {"prompt": 5, **({"tenant": tenant} if tenant else {})}
    return json.dumps({"v": version, "k": {"job": job}, "et": 1}).encode()


@pytest.mark.parametrize(
    ("version", "status", "code"), [(1, 409, "corrupt_record"), (99, 503, "newer_record")]
)
async def test_an_unreadable_job_is_told_to_its_tenant_alone(
    api: Api, make_key: Any, redis: Redis, version: int, status: int, code: str
) -> None:
    """Red with a 500 when the errors are not in `_ALIKE`; with an answer to Bob when he is told."""
    keys = JobKeys.new(0)
    await put(redis, keys, record=unreadable("alice", version))
    job = f"/jobs/{keys.public_id}"
    calls = [("GET", ""), ("GET", "/result"), ("GET", "/events"), ("POST", "/cancel")]
    async with (
        api.with_key(await make_key("alice")) as alice,
        api.with_key(await make_key("bob")) as bob,
    ):
        for method, what in [*calls, ("POST", "/retry")]:
            mine = await alice(method, job + what)
            assert (mine.status, mine.code) == (status, code), (method, what)
            assert (await bob(method, job + what)).code == "job_not_found"
        response = f"/v1/responses/resp_{keys.public_id}"
        assert (await alice("GET", response)).code == code
        assert (await bob("GET", response)).code == "job_not_found"


async def test_a_record_of_nobody_is_no_tenants(api: Api, make_key: Any, redis: Redis) -> None:
    keys = JobKeys.new(0)
    await put(redis, keys, record=b"\x80\x04\x95")
    assert (await api("GET", f"/jobs/{keys.public_id}")).code == "corrupt_record"
    async with api.with_key(await make_key("alice")) as alice:
        assert (await alice("GET", f"/jobs/{keys.public_id}")).code == "job_not_found"


@pytest.mark.parametrize(
    ("stored", "code"),
    [(b"{}", "corrupt_record"), (b"\xff", "corrupt_record"), (b'{"v":99}', "newer_record")],
)
async def test_an_unreadable_batch_hides_no_other(
    api: Api, redis: Redis, stored: bytes, code: str
) -> None:
    """Red with a 500 for what msgspec raises."""
    keys = BatchKeys.new(0)
    await redis.set(keys.files, stored, ex=60)
    await redis.zadd("darkq:{files}:of:open", {keys.public_id: 9e9})
    await redis.expire("darkq:{files}:of:open", 60)
    assert (await api("GET", f"/v1/batches/{keys.public_id}")).code == code
    assert (await api("POST", f"/v1/batches/{keys.public_id}/cancel")).code == code
    assert (await api("GET", "/v1/batches")).json["data"] == []


async def test_an_unreadable_key_is_no_key(api: Api, make_key: Any, redis: Redis) -> None:
    secret = await make_key()
    (name,) = await redis.keys("darkq:key:*")
    await redis.set(name, b'{"v":2}')
    async with api.with_key(secret) as caller:
        assert (await caller("GET", "/jobs")).code == "invalid_api_key"
    await redis.set(name, b"x", ex=60)
