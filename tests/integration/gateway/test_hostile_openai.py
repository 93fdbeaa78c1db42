"""Hostile requests below `/v1`: 4xx and never 5xx, nothing is stored, nothing is told."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from support.http_api import Api

JSON = {"Content-Type": "application/json"}
CHAT, RESPONSES, BATCHES, FILES = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/batches",
    "/v1/files",
)
POSTS = (CHAT, RESPONSES, BATCHES)
SEED = 20261124
EXAMPLES = 200
SECRET = "hunter2"


@pytest.fixture
async def stored_nothing(redis: Redis, tmp_path: Path) -> AsyncIterator[None]:
    """Nothing is in Redis or among the files after the test that was not there before."""
    yield
    assert await redis.keys("*") == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("stored_nothing")
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe{}",
        b'{"model":"\xff"}',
        b'{"model":"\\ud800","messages":[],"input":"\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"metadata":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"model":1e999,"messages":1e999,"input":1e999}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":' + b"9" * 5000 + b"}",
        b'{"model":"m","input":"x","n":' + b"9" * 5000 + b"}",
        b'{"model":"m","messages":"x","input":7,"input_file_id":"../../etc/passwd"}',
        b'{"input_file_id":"file-\\r\\nX: y","endpoint":"/v1/responses","completion_window":"24h"}',
        b'{"input_file_id":"' + b"../" * 99 + b'etc/passwd","endpoint":"/v1/responses",'
        b'"completion_window":"24h"}',
        b'{"model":"a\\r\\nX: y","messages":[{"role":"user\\r\\n","content":"x"}],"input":[1]}',
        b'{"model":"' + b"m" * 100_000 + b'","messages":[],"input":[]}',
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
async def test_a_malformed_body_is_refused(api: Api, path: str, body: bytes) -> None:
    answer = await api("POST", path, data=body, headers=JSON)
    assert 400 <= answer.status < 500
    assert answer.json["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.usefixtures("stored_nothing")
@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_is_too_large(start_gateway: Any, path: str) -> None:
    api = await start_gateway(gateway_max_body_bytes=2048)
    for chunked in (None, True):
        data = io.BytesIO(b'{"model":"' + b"x" * 4096 + b'"}')
        answer = await api("POST", path, data=data, headers=JSON, chunked=chunked)
        assert (answer.status, answer.code) == (413, "body_too_large")


@pytest.mark.usefixtures("stored_nothing")
@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_does_not_come(start_gateway: Any, path: str) -> None:
    api = await start_gateway(gateway_read_timeout_s=0.2)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n{{".encode()
    assert (await api.bare(head, timeout_s=1)).startswith(b"HTTP/1.1 408")


@pytest.mark.usefixtures("stored_nothing")
async def test_a_file_that_does_not_come_or_is_cut_off(start_gateway: Any) -> None:
    api = await start_gateway(gateway_read_timeout_s=0.2)
    for rest, status in ((b"", b"408"), (b"\r\n--x\r\n", b"408"), (b"\r\n--x--\r\n", b"400")):
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc'
        head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n"
        head += b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
        length = len(part + rest) + (0 if status == b"400" else 10)
        answer = await api.bare(head % length + part + rest, timeout_s=1)
        assert answer.split()[1] == status, answer


@pytest.mark.usefixtures("stored_nothing")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nabc\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--y\r\n"),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x\r\n"),
        ("multipart/mixed; boundary=x", b"--x--\r\n"),
        ("application/json", b"{}"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"a" * 9999,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../f"\r\n'
            b"Content-Transfer-Encoding: nonsense\r\n\r\nabc\r\n--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../f"\r\n'
            b"Content-Encoding: gzip\r\n\r\nabc\r\n--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="\xff\xfe"\r\n\r\nabc\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\n" + b"X-Y: z\r\n" * 20_000 + b"\r\nabc\r\n--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\na\r\n--y--\r\n"
            b"--x--\r\n",
        ),
    ],
)
async def test_a_malformed_upload_is_refused(api: Api, content_type: str, body: bytes) -> None:
    answer = await api("POST", FILES, data=body, headers={"Content-Type": content_type})
    assert 400 <= answer.status < 500, answer


@pytest.mark.usefixtures("stored_nothing")
@pytest.mark.parametrize(
    "target",
    [
        "/v1/responses/..%2f..%2fetc%2fpasswd",
        "/v1/responses/resp_0-%0d%0aX:y",
        "/v1/responses/resp_%00",
        "/v1/responses/resp_%ff%fe",
        "/v1/responses/resp_" + "0" * 5000,
        "/v1/responses/resp_*?stream=true",
        "/v1/responses/resp_0-{0}" + "0" * 30,
        "/v1/responses/resp_0-" + "0" * 32 + "?stream=true&starting_after=" + "9" * 4000,
        "/v1/responses/resp_0-" + "0" * 32 + "?stream=true&starting_after=-1",
        "/v1/responses/resp_0-" + "0" * 32 + "?stream=true&starting_after=%D9%A3",
        "/v1/files/..%2f..%2fetc%2fpasswd/content",
        "/v1/files/file-%2e%2e/content",
        "/v1/files/%00",
        "/v1/files/%ff",
        "/v1/files/file-" + "a" * 5000,
        "/v1/files?limit=" + "9" * 5000,
        "/v1/files?limit=%C2%B2",
        "/v1/files?after=%00%ff",
        "/v1/files?order=" + "x" * 5000,
        "/v1/batches?limit=-1",
        "/v1/batches?limit=1e3",
        "/v1/batches?limit=%D9%A3%00",
        "/v1/batches/%0d%0a",
        "/v1/batches/*",
        "/v1/batches/{0}" + "0" * 32,
        "/v1/models/..%2f..%2f",
        "/v1/models/%00%ff",
        "/v1//chat/completions",
        "/v1/../jobs/x",
        "/v1/",
        "/v1",
    ],
)
async def test_odd_paths_and_queries_name_nothing(api: Api, target: str) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await api.bare(request.encode())
    assert 400 <= int(answer.split()[1]) < 500, answer
    assert answer.count(b"HTTP/") == 1
    assert b"\r\nX:y" not in answer


@pytest.mark.usefixtures("stored_nothing")
@pytest.mark.parametrize("path", [*POSTS, FILES, "/v1/models"])
async def test_hosts_origins_and_methods_are_those_of_every_route(api: Api, path: str) -> None:
    evil = {"Host": "evil.example"}
    assert (await api("POST", path, {}, headers=evil)).status == 421
    assert (await api("POST", path, {}, headers={"Origin": "https://evil.example"})).status == 403
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "X"):
        assert (await api(method, path)).status in (400, 405)


@pytest.mark.usefixtures("stored_nothing")
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2;\n\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding\x0b: chunked\r\n\r\n",
        b"Idempotency-Key: a\rb\r\nContent-Length: 2\r\n\r\n{}",
        b"x-stainless-retry-count: 1\0\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_nothing_is_smuggled_behind_a_request(api: Api, path: str, headers: bytes) -> None:
    request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + headers
    answer = await api.bare(request + b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", timeout_s=1)
    assert answer.split()[1] == b"400"
    assert answer.count(b"HTTP/") == 1, "nothing after it was taken for a request"


@pytest.mark.usefixtures("stored_nothing")
async def test_odd_keys_and_retry_counts(api: Api) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [1]}
    for headers in (
        {"Idempotency-Key": "x" * 5000},
        {"Idempotency-Key": "\xff"},
        {"x-stainless-retry-count": "-1"},
        {"x-stainless-retry-count": "9" * 5000},
        {"Authorization": "Bearer " + "\xff" * 99},
    ):
        assert (await api("POST", CHAT, body, headers=headers)).status == 400


async def test_the_log_and_the_answers_tell_no_secret(
    api: Api, make_key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = await make_key()
    message = {"role": "user", "content": SECRET}
    answers = []
    async with api.with_key(key) as caller:
        for body in (
            {"model": "m", "messages": [message], "tools": [SECRET]},
            {"model": "m", "messages": [message], "temperature": SECRET},
            {"model": "m", "messages": [message], "stream": SECRET},
            {"model": "m", "messages": [message], "metadata": {SECRET: 1}},
            {"model": "m", "messages": [message | {"role": SECRET}]},
            {"model": [SECRET], "input": SECRET, "messages": SECRET},
            {"model": "m", "input": [{"type": SECRET}], "messages": [{"content": [SECRET]}]},
            {"input_file_id": SECRET, "endpoint": SECRET, "completion_window": SECRET},
        ):
            answers += [await caller("POST", path, body) for path in POSTS]
            answers.append(await caller("POST", FILES, data={"file": io.BytesIO(SECRET.encode())}))
        for path in ("/v1/responses/resp_", "/v1/files/", "/v1/batches/", "/v1/models/"):
            answers.append(await caller("GET", f"{path}{SECRET}?after={SECRET}"))
    answers.append(await api("GET", "/v1/models", headers={"Authorization": f"Bearer {SECRET}"}))
    assert {answer.status for answer in answers} <= {400, 401, 404, 415}
    for told in [caplog.text, *(str(answer.json) for answer in answers)]:
        assert SECRET not in told
        assert key not in told


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": VALUES}),
    max_size=3,
)
FIELDS = st.sampled_from(
    [
        *("model", "messages", "input", "instructions", "metadata", "stream", "stream_options"),
        *("store", "n", "stop", "tools", "tool_choice", "temperature", "top_p", "max_tokens"),
        *("max_completion_tokens", "max_output_tokens", "response_format", "text", "reasoning"),
        *("seed", "logit_bias", "user", "previous_response_id", "truncation", "include"),
    ]
)  # fmt: skip
BODIES = st.dictionaries(FIELDS | st.text(max_size=9), VALUES, max_size=6)
OPTIONAL = {
    "stream": st.booleans(),
    "metadata": VALUES,
    "temperature": VALUES,
    "user": VALUES,
    "text": VALUES,
}
TEXT = st.text(min_size=1)
PLAUSIBLE: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    CHAT: {"messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": TEXT}))},
    RESPONSES: {"input": TEXT | MESSAGES},
}


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_no_json_is_a_server_error(api: Api, working: Any, path: str) -> None:
    print(f"seed {SEED}")
    await working(chunks=1)
    seen = await asyncio.to_thread(_statuses, api.url, path)
    assert 400 in seen, "nothing was refused"
    assert 200 in seen, "nothing was taken"


def _statuses(url: str, path: str) -> set[int]:
    """Ask for all kinds of things over one connection; return which statuses came."""
    seen: set[int] = set()
    named: dict[str, st.SearchStrategy[Any]] = {
        "model": st.sampled_from(["m", "llama-3-70b"]),
        **PLAUSIBLE[path],
    }
    plausible = st.fixed_dictionaries(named, optional=OPTIONAL)
    connection = HTTPConnection(url.removeprefix("http://"), timeout=10)

    @seed(SEED)
    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(BODIES | plausible)
    def ask(body: dict[str, Any]) -> None:
        connection.request("POST", path, json.dumps(body), JSON)
        with connection.getresponse() as response:
            response.read()
        seen.add(response.status)
        assert response.status < 500

    try:
        ask()
    finally:
        connection.close()
    return seen
