"""What comes in at all: hosts, origins, malformed and hostile requests, and what the log says."""

from __future__ import annotations

import asyncio
import io
import logging
from typing import Any

import pytest
from redis.asyncio import Redis

from support.http_api import Api
from support.waiting import wait_until

JSON = {"Content-Type": "application/json"}
ORDER = b'{"prompt":"x"}'
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]", "[::1]:8080", "127.0.0.1"]
)
async def test_names_of_loopback_are_ours(api: Api, host: str) -> None:
    assert (await api("GET", "/healthz", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "localhost@evil", "", "a b",
     "127.0.0.2", "localhost:x", "localhost:123456", "[::1", "2130706433", "localhost,evil"],
)  # fmt: skip
async def test_another_host_is_refused_before_anything_is_done(
    api: Api, redis: Redis, host: str
) -> None:
    answer = await api("POST", "/jobs", {"prompt": "x"}, headers={"Host": host})
    assert (answer.status, answer.code) == (421, "unknown_host")
    assert await redis.dbsize() == 0


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: localhost\r\n"])
async def test_there_is_exactly_one_host(api: Api, hosts: bytes) -> None:
    answer = await api.bare(b"GET /healthz HTTP/1.1\r\n%bConnection: close\r\n\r\n" % hosts)
    assert answer.split()[1] == b"400"


async def test_further_names_are_a_setting(start_gateway: Any) -> None:
    api = await start_gateway(gateway_allowed_hosts="darkq.example, other")
    for host, status in (("darkq.example:443", 200), ("OTHER", 200), ("third", 421)):
        assert (await api("GET", "/healthz", headers={"Host": host})).status == status
    api = await start_gateway(gateway_allowed_hosts="*")
    assert (await api("GET", "/healthz", headers={"Host": "third"})).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "x"])
async def test_a_strangers_page_is_refused(api: Api, redis: Redis, origin: str) -> None:
    answer = await api("POST", "/jobs", {"prompt": "x"}, headers={"Origin": origin})
    assert (answer.status, answer.code) == (403, "origin_not_allowed")
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = await api("OPTIONS", "/jobs", headers=preflight)
    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert await redis.dbsize() == 0


async def test_our_own_page_may_call(api: Api) -> None:
    answer = await api("POST", "/jobs", {"prompt": "x"}, headers={"Origin": api.url})
    assert answer.status == 201


async def test_pages_of_allowed_origins_may_call(start_gateway: Any) -> None:
    api = await start_gateway(gateway_cors_origins="https://app.example,http://localhost:3000")
    origin = {"Origin": "https://app.example"}
    answer = await api(
        "OPTIONS", "/jobs", headers=origin | {"Access-Control-Request-Method": "POST"}
    )
    assert answer.status == 204
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
    for allowed in (
        answer,
        await api("POST", "/jobs", {"prompt": "x"}, headers=origin),
        await api("GET", "/jobs/0-0", headers=origin),
    ):
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "Access-Control-Allow-Credentials" not in allowed.headers
        assert "Origin" in allowed.headers["Vary"]
    answer = await api("GET", "/jobs", headers={"Origin": "https://other.example"})
    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


HEAD = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: 14\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ORDER,
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 14\r\n\r\n" + ORDER,
        HEAD + b"Content-Length: 14\r\nContent-Length: 15\r\n\r\n" + ORDER,
        HEAD + b"Content-Length: +14\r\n\r\n" + ORDER,
        HEAD + b"Content-Length: -1\r\n\r\n" + ORDER,
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + ORDER,
        HEAD + b"Transfer-Encoding : chunked\r\n\r\ne\r\n" + ORDER + b"\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + ORDER + b"\r\n0\r\n\r\n",
        b"POST /jobs\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET http://evil.example/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    ],
)
async def test_bad_http_is_400_and_stores_nothing(api: Api, redis: Redis, request_: bytes) -> None:
    answer = await api.bare(request_, timeout_s=1)
    assert answer.split()[1] in (b"400", b"421")
    assert answer.count(b"HTTP/") == 1, "nothing after it was taken for a request"
    assert await redis.dbsize() == 0


@pytest.mark.parametrize("chunked", [None, True])
async def test_a_body_that_is_too_large(
    start_gateway: Any, redis: Redis, chunked: bool | None
) -> None:
    api = await start_gateway(gateway_max_body_bytes=2048)
    body = b'{"prompt":"' + b"x" * 4096 + b'"}'
    answer = await api("POST", "/jobs", data=io.BytesIO(body), headers=JSON, chunked=chunked)
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert await redis.dbsize() == 0


async def test_a_small_body_that_unpacks_into_a_large_one(start_gateway: Any, redis: Redis) -> None:
    import zlib

    api = await start_gateway(gateway_max_body_bytes=2048)
    bomb = zlib.compress(b'{"prompt":"' + b"x" * 10_000_000 + b'"}')
    answer = await api(
        "POST", "/jobs", data=io.BytesIO(bomb), headers=JSON | {"Content-Encoding": "deflate"}
    )
    assert 400 <= answer.status < 500
    assert await redis.dbsize() == 0


async def test_a_body_that_does_not_come(start_gateway: Any, redis: Redis) -> None:
    api = await start_gateway(gateway_read_timeout_s=0.2)
    answer = await api.bare(HEAD + b"Content-Length: 14\r\n\r\n{", timeout_s=3)
    assert answer.startswith(b"HTTP/1.1 408")
    assert await redis.dbsize() == 0


async def test_connections_beyond_the_bound_are_closed(start_gateway: Any) -> None:
    api = await start_gateway(gateway_max_connections=2)
    port = int(api.url.rsplit(":", 1)[1])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    await asyncio.sleep(0)

    async def refused() -> bool:
        answer: bytes = await api.bare(HEALTHZ, 0.2)
        return answer == b""

    await wait_until("a refusal", refused)
    for _, writer in held:
        writer.close()

    async def served() -> bool:
        answer: bytes = await api.bare(HEALTHZ, 0.2)
        return b"200 OK" in answer

    await wait_until("room", served)


async def test_every_response_has_an_id_and_says_little(api: Api) -> None:
    answers = [
        await api("GET", path) for path in ("/healthz", "/jobs", "/nowhere", "/jobs/0-0")
    ] + [await api("DELETE", "/jobs")]
    ids = {answer.headers["X-Request-ID"] for answer in answers}
    assert len(ids) == len(answers)
    assert {answer.headers["Server"] for answer in answers} == {"darkq"}
    assert (answers[-1].status, answers[-1].headers["Allow"]) == (405, "GET,HEAD,POST")


async def test_the_log_tells_of_requests_and_of_no_secret(
    api: Api, make_key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hunter2"
    key = await make_key()
    async with api.with_key(key) as caller:
        await caller("POST", "/jobs", {"prompt": secret, "metadata": {secret: secret}})
        await caller("POST", "/jobs", {"prompt": secret, "priority": secret})
        await caller("POST", "/jobs", {"prompt": secret, secret: 1})
        await caller("POST", f"/jobs?key={secret}", data=secret.encode(), headers=JSON)
        await caller("GET", f"/{secret}")
        await caller("GET", "/jobs", headers={"X-Secret": secret, "User-Agent": secret})
        await caller("GET", f"/jobs/{secret}/events?after={secret}")
    await api("GET", "/jobs", headers={"Authorization": f"Bearer {secret}"})
    await api.bare(b"hunter2 /hunter2 HTTP/1.1\r\nHost: hunter2\r\nhunter2\r\n\r\n", 0.2)
    await api.bare(b"GET /hunter2 HTTP/1.1\r\nHost: localhost\r\nhunter2 : x\r\n\r\n", 0.2)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("request method=POST route=/jobs status=201 ") for line in lines)
    assert any("method=GET route=/jobs/{job_id}/events status=422 " in line for line in lines)
    text = caplog.text
    assert secret not in text
    assert key not in text


async def test_a_bug_is_500_without_its_text(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from darkq import Client

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("hunter".upper())

    monkeypatch.setattr(Client, "jobs", broken)
    answer = await api("GET", "/jobs")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "HUNTER" not in caplog.text + str(answer.json)
    assert "in broken" in caplog.text
