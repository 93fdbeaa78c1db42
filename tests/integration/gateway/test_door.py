"""What comes in at all: hosts, origins, malformed and hostile requests, and what the log says."""

from __future__ import annotations

import asyncio
import io
import logging
from typing import Any

import pytest
from redis.asyncio import Redis

from support.http_api import Api
from support.raw_http import make_request, pipelined
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


SDK_HEADERS = (
    "accept, authorization, content-type, openai-organization, openai-project, user-agent, "
    "x-stainless-arch, x-stainless-helper-method, x-stainless-lang, x-stainless-os, "
    "x-stainless-package-version, x-stainless-retry-count, x-stainless-runtime, "
    "x-stainless-runtime-version, x-stainless-timeout"
)


@pytest.mark.parametrize("asked", [SDK_HEADERS, SDK_HEADERS.replace(" ", ""), "x-anything"])
async def test_pages_of_an_allowed_origin_may_use_openais_sdk(
    start_gateway: Any, asked: str
) -> None:
    """Red with a fixed list of headers that leaves out one of those which the SDK adds."""
    api = await start_gateway(gateway_cors_origins="https://app.example")
    origin = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    answer = await api("OPTIONS", "/v1/responses", headers=origin | preflight)
    assert answer.status == 204
    allowed = answer.headers["Access-Control-Allow-Headers"].split(",")
    assert {name.strip() for name in allowed} >= {name.strip() for name in asked.split(",")}
    answer = await api("GET", "/v1/models", headers=origin)
    assert answer.status == 200
    exposed = answer.headers["Access-Control-Expose-Headers"].lower()
    for name in ("x-should-retry", "retry-after-ms", "retry-after", "x-request-id", "location"):
        assert name in exposed.split(", ")


async def test_a_preflight_repeats_nothing_but_names_of_headers(start_gateway: Any) -> None:
    """Red where whatever stands in the request becomes a header of the response."""
    api = await start_gateway(gateway_cors_origins="https://app.example")
    for asked in ("*", "a b", 'x"y', "x-a;q=1", "é"):
        headers = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": asked,
        }
        answer = await api("OPTIONS", "/jobs", headers=headers)
        assert asked not in answer.headers["Access-Control-Allow-Headers"]


WINDOW = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
@pytest.mark.parametrize(
    ("path", "others"),
    [
        ("/v1/models", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}),
        ("/jobs", WINDOW),
        ("/", {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}),
        ("/", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}),
        ("/board/board.js", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}),
        ("/openapi.json", {}),
    ],
)
async def test_another_sites_page_may_not_call_without_an_origin(
    api: Api, site: str, path: str, others: dict[str, str]
) -> None:
    """Red where a request without `Origin`, such as an image's, passes for a program's."""
    answer = await api("GET", path, headers={"Sec-Fetch-Site": site, **others})
    assert (answer.status, answer.code) == (403, "origin_not_allowed")


async def test_another_sites_page_may_link_to_the_board(api: Api) -> None:
    """Red where a link to the board is refused, or what the board itself loads."""
    for site in ("cross-site", "same-site", "none", "same-origin"):
        assert (await api("GET", "/", headers={"Sec-Fetch-Site": site, **WINDOW})).status == 200
    for site in ("none", "same-origin"):
        assert (await api("GET", "/jobs", headers={"Sec-Fetch-Site": site})).status == 200
    assert (await api("GET", "/jobs")).status == 200


@pytest.mark.parametrize("path", ["/jobs", "/v1/responses", "/v1/chat/completions", "/v1/batches"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_a_body_that_a_form_could_send_is_refused(
    api: Api, redis: Redis, path: str, kind: str
) -> None:
    """Red where a path takes JSON without `application/json`."""
    body = b'{"model":"gpt-4o","input":"x","prompt":"x","messages":[]}'
    request = make_request("POST", path, *([f"Content-Type: {kind}"] if kind else []), body=body)
    (response,) = await pipelined(api.url, ("POST", request))
    assert (response.status, response.json["error"]["code"]) == (415, "not_json")
    assert await redis.dbsize() == 0


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/healthz", 200),
        ("HTTP://LOCALHOST/healthz", 200),
        ("http://evil.example/healthz", 400),
        ("http://127.0.0.1/healthz", 400),
        ("http://localhost:1/healthz", 400),
        ("http://user@localhost/healthz", 400),
        ("ftp://localhost/healthz", 400),
        ("//localhost/healthz", 404),
    ],
)
async def test_a_target_with_another_name_than_the_host_is_refused(
    api: Api, target: str, status: int
) -> None:
    """Red where a proxy before us goes by the target, and we by the `Host`."""
    (response,) = await pipelined(api.url, ("GET", make_request("GET", target)))
    assert response.status == status


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /hunter2\x01<b> HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"hunter2 / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nhunter2 : x\r\n\r\n",
        b"GET / HTTP/1.2 hunter2\r\n\r\n",
        make_request("POST", "/jobs", "Expect: hunter2", body=b"{}"),
        make_request("GET", "/v1/hunter2", "Expect: hunter2"),
        make_request("GET", "/healthz", "X: " + "hunter2" * 2000),
    ],
)
async def test_bad_http_is_answered_in_our_form_and_quoted_nowhere(
    api: Api, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    """Red where aiohttp's own answers get out: text, with its version and parts of the request."""
    caplog.set_level(logging.DEBUG)
    (response,) = await pipelined(api.url, ("GET", request_))
    assert response.status in (400, 417, 505)
    assert response.headers["server"] == "darkq"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "application/json"
    assert set(response.json["error"]) >= {"code", "message"}
    assert "hunter2" not in str(response) + caplog.text
    id_ = response.headers["x-request-id"]
    (line,) = [r for r in caplog.records if f"request={id_}" in r.getMessage()]
    assert f" status={response.status} " in line.getMessage()
    assert not [
        r for r in caplog.records if r.levelno >= logging.WARNING and r.name != "darkq.gateway"
    ]


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
