"""5,000 requests at random: no 5xx, no traceback, nothing of them in the log at DEBUG.

    the document   what the OpenAPI document allows, and what it does not (schemathesis)
    bytes          requests with bytes changed anywhere: most are no HTTP
    requests       whole requests with strange methods, targets, headers and JSON, in pipelines
    forms          uploads with bytes changed anywhere

Each is counted by what was answered. The seed of the last three is new each time, and printed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, NamedTuple

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from darkq.telemetry.logging import FORMATTERS
from darkq_gateway.app import ROUTES
from darkq_gateway.native.openapi import make_document
from support.attacks import FILE, PART, upload_request
from support.http_api import Api
from support.raw_http import ConnectionEnded, connection, make_request, read_response

pytestmark = pytest.mark.slow

DOCUMENT_SEED = 20260
EXAMPLES = 25
"""Of each operation of the document; one takes longer than ten of the others."""
LEAST = {"document": 150, "bytes": 1000, "requests": 2800, "forms": 1200}
AT_ONCE = 20
PIPELINED = 10
ANSWER_S = 0.3
CANARY = "canary7f31"

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
ENDLESS = ("/board/overview",)
THE_CLIENTS_OWN = ("urllib3", "hypothesis", "schemathesis", "asyncio")
"""Loggers of what is sent here. Of `asyncio`'s, errors are looked at."""


class Fuzzed(NamedTuple):
    """A gateway with a worker behind it, a caller of it, and the key."""

    api: Api
    key: str
    job_id: str
    chance: random.Random


@pytest.fixture
async def fuzzed(
    start_gateway: Callable[..., Awaitable[Api]],
    make_key: Callable[..., Awaitable[str]],
    working: Callable[..., Awaitable[Any]],
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[Fuzzed]:
    """Fails where a request, a key or an error is in the log of the gateway or the worker."""
    number = secrets.randbits(32)
    print(f"seed {number}")
    await working(chunks=1)
    key = await make_key()
    api = await start_gateway(gateway_read_timeout_s=2.0)
    async with api.with_key(key) as caller:
        job_id = await caller.enqueue(CANARY)
        caplog.set_level(logging.DEBUG)
        for name in ("darkq", "arq", "redis", "aiohttp", "python_multipart", "asyncio"):
            caplog.set_level(logging.DEBUG, logger=name)
        yield Fuzzed(caller, key, job_id, random.Random(number))
    _check_log(caplog.get_records("call"), (CANARY, key))


def _check_log(records: list[logging.LogRecord], secret: tuple[str, ...]) -> None:
    ours = [r for r in records if not r.name.startswith(THE_CLIENTS_OWN)]
    errors = [r.getMessage() for r in records if r.levelno >= logging.ERROR]
    assert not errors, errors[:5]
    assert any(r.name.startswith("darkq.worker") for r in ours), "the worker is heard"
    assert any(r.name.startswith("darkq.gateway") for r in ours), "and so is the gateway"
    for record in ours:
        written = [record.getMessage(), *(make().format(record) for make in FORMATTERS.values())]
        for line in written:
            assert "Traceback" not in line, line
            assert not any(word in line for word in secret), (record.name, line)


def test_they_are_5000_together() -> None:
    assert sum(LEAST.values()) >= 5000


async def test_what_the_document_allows_and_what_it_does_not(fuzzed: Fuzzed) -> None:
    """Red where a response is not as the document says."""
    sent = await asyncio.to_thread(_fuzz_document, fuzzed)
    assert sent >= LEAST["document"], sent


def _fuzz_document(fuzzed: Fuzzed) -> int:
    schema = schemathesis.openapi.from_dict(make_document())
    schema.config.update(base_url=fuzzed.api.url)
    headers = {"Authorization": f"Bearer {fuzzed.key}", "X-Canary": CANARY}
    sent = 0
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]  # an Err would raise here

        @seed(DOCUMENT_SEED)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            nonlocal sent
            if "job_id" in case.path_parameters:  # half of them about a job that there is
                case.path_parameters["job_id"] = [fuzzed.job_id, case.path_parameters["job_id"]][
                    len(str(case.path_parameters["job_id"])) % 2
                ]
            response = case.call(timeout=20, headers=headers)
            case.validate_response(response, checks=CHECKS)
            sent += 1

        ask()
    return sent


async def test_requests_with_any_bytes_changed(fuzzed: Fuzzed) -> None:
    """Red where a broken request gets a 5xx, or a response that is not ours."""
    pieces = [b"\r\n", b"\n", b" ", b":", b"\0", b"\xff", b"0", b"HTTP/1.1", b"%", b"chunked", b","]
    pieces.append(CANARY.encode())
    prompt = json.dumps({"prompt": CANARY}).encode()
    json_type, key = "Content-Type: application/json", f"Authorization: Bearer {fuzzed.key}"
    samples = [
        make_request("GET", "/jobs?limit=1", "Origin: http://localhost", "Sec-Fetch-Site: none"),
        make_request("POST", "/jobs", json_type, key, body=prompt),
        make_request("POST", "/jobs", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
        make_request("HEAD", "/", "Connection: upgrade", "Upgrade: h2c"),
        make_request("GET", "http://localhost/v1/models", "Expect: 100-continue", key),
    ]

    async def send(chance: random.Random) -> list[int]:
        request = _changed(chance, chance.choice(samples), pieces) + b"\r\n\r\n"
        answer = await _answer_to(fuzzed.api.url, request)
        if not answer:
            return []
        assert not answer.startswith(b"HTTP/1.1 500"), (request, answer)
        assert b"\r\nServer: darkq\r\n" in answer, (request, answer)
        assert b"aiohttp" not in answer, (request, answer)
        return [int(answer.split()[1])]

    statuses = await _until_answered(fuzzed, send, LEAST["bytes"], allowed_5xx={505})
    assert statuses[400] > LEAST["bytes"] / 2


async def test_whole_requests_of_any_kind(fuzzed: Fuzzed) -> None:
    """Red where any method, path, query, header or body gets a 5xx."""

    async def send(chance: random.Random) -> list[int]:
        requests = [_strange_request(chance, fuzzed) for _ in range(PIPELINED)]
        statuses = list[int]()
        async with connection(fuzzed.api.url) as (reader, writer), asyncio.timeout(20):
            writer.write(b"".join(request for _, request in requests))
            for method, request in requests:
                try:
                    response = await read_response(reader, method)
                except (ConnectionEnded, ConnectionError):  # it was no HTTP: nothing is read on
                    break
                assert response.status < 500, (request, response)
                statuses.append(response.status)
                if response.headers.get("connection") == "close":
                    break
        return statuses

    statuses = await _until_answered(fuzzed, send, LEAST["requests"])
    assert {200, 400, 401, 403, 404, 405, 415, 422} <= statuses.keys()


async def test_forms_with_any_bytes_changed(fuzzed: Fuzzed) -> None:
    """Red where a form gets a 5xx."""
    pieces = [b"\r\n", b"\n", b"--BBB", b"--", b'"', b";", b"=", b":", b"\0", b"\xff", b"*=utf-8''"]
    pieces += [b"filename", b"name", b"charset=", b"_charset_", b"x" * 3000, CANARY.encode()]
    line = json.dumps({"custom_id": "1", "body": CANARY}).encode()
    form = PART % b"purpose" + b"batch\r\n" + FILE + line + b"\r\n--BBB--\r\n"

    async def send(chance: random.Random) -> list[int]:
        request = upload_request(_changed(chance, form, pieces), fuzzed.key)
        answer = await _answer_to(fuzzed.api.url, request, 5.0)
        assert not answer.startswith(b"HTTP/1.1 5"), (request, answer)
        return [int(answer.split()[1])] if answer else []

    statuses = await _until_answered(fuzzed, send, LEAST["forms"])
    assert {200, 400} <= statuses.keys()


async def _until_answered(
    fuzzed: Fuzzed,
    send: Callable[[random.Random], Awaitable[list[int]]],
    count: int,
    allowed_5xx: Collection[int] = (),
) -> Counter[int]:
    """Send at random, several at once, until so many requests have been answered."""
    statuses: Counter[int] = Counter()

    async def go_on(chance: random.Random) -> None:
        while statuses.total() < count:
            statuses.update(await send(chance))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(go_on(random.Random(fuzzed.chance.getrandbits(32))))
    print(dict(statuses))
    assert {status for status in statuses if status >= 500} <= set(allowed_5xx)
    return statuses


def _changed(chance: random.Random, sample: bytes, pieces: list[bytes]) -> bytes:
    changed = bytearray(sample)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed))
        changed[place : place + chance.randint(0, 3)] = chance.choice(pieces)
    return bytes(changed)


async def _answer_to(url: str, request: bytes, timeout_s: float = ANSWER_S) -> bytes:
    """Send bytes; return the last response to them, or nothing if the gateway waits for more."""
    async with connection(url) as (reader, writer):
        writer.write(request)
        try:
            answer = await asyncio.wait_for(reader.read(1 << 16), timeout_s)
        except (TimeoutError, ConnectionError):
            return b""
        return answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")


PATTERNS = sorted({r.path for r in ROUTES if r.path not in ENDLESS})
METHODS = ("GET", "GET", "POST", "POST", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE")
TEXTS = (
    *("", "a", CANARY, "x" * 3000, "-1", "0", "1e309", "nan", "1" * 400, "\u0663", "null", "true"),
    *("%00", "%ff", "..%2f", "%0d%0aX:1", "{}", "[]", '"', "'", "<b>", "\u202e", "resp_", "0-0"),
)
NAMES = (
    *("Content-Type", "Accept", "Idempotency-Key", "Last-Event-ID", "Origin", "Referer", "Cookie"),
    *(
        "Content-Encoding",
        "If-None-Match",
        "Range",
        "Sec-Fetch-Site",
        "X-Forwarded-For",
        "X-Canary",
    ),
    *(
        "x-stainless-retry-count",
        "traceparent",
        "User-Agent",
        "Expect",
        "Access-Control-Request-Method",
    ),
)
VALUES = (
    *("application/json", "text/plain", "identity", "gzip", "http://localhost", "cross-site"),
    *("bytes=0-", "1-1", "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "100-continue", "W/\"x\""),
)  # fmt: skip
BODIES: tuple[Any, ...] = (
    {
        "prompt": CANARY,
        "metadata": {"a": CANARY},
        "model": "gpt-4o",
        "tries": 1,
        "priority": "batch",
    },
    [{"prompt": CANARY}],
    {"model": "gpt-4o", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 5},
    {"model": "gpt-4o", "input": CANARY, "background": True, "metadata": {"a": CANARY}},
    {"input_file_id": "file-" + "0" * 32, "endpoint": "/v1/chat/completions", "metadata": None},
)
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        1e300,
        2**70,
        "",
        CANARY,
        "\0",
        "\ud800",
        [],
        {},
        [[[]]],
        {"": None},
        "x" * 999,
    ),
)


def _strange_request(chance: random.Random, fuzzed: Fuzzed) -> tuple[str, bytes]:
    method = chance.choice(METHODS)
    headers = [
        f"{chance.choice(NAMES)}: {_header_value(chance)}" for _ in range(chance.randint(0, 3))
    ]
    if chance.random() < 0.8:
        headers.append(f"Authorization: Bearer {fuzzed.key}")
    body = None
    if method in ("POST", "PUT", "PATCH"):
        headers.append("Content-Type: application/json")
        body = _strange_body(chance)
    return method, make_request(method, _strange_target(chance, fuzzed), *headers, body=body)


def _strange_target(chance: random.Random, fuzzed: Fuzzed) -> str:
    def some_id(_: re.Match[str]) -> str:
        return chance.choice((fuzzed.job_id, f"resp_{fuzzed.job_id}", _for_url(chance)))

    path = re.sub(r"\{(\w+)[^}]*\}", some_id, chance.choice(PATTERNS))
    names = ("limit", "after", "starting_after", "order", "purpose", "include", _for_url(chance))
    query = [f"{chance.choice(names)}={_for_url(chance)}" for _ in range(chance.randint(0, 2))]
    return path + ("?" + "&".join(query) if query else "")


def _for_url(chance: random.Random) -> str:
    text = chance.choice(TEXTS)
    return "".join(c if c.isascii() and c not in " \"<>'" else "%41" for c in text)


def _header_value(chance: random.Random) -> str:
    return chance.choice((*VALUES, *(text for text in TEXTS if text.isascii())))


def _strange_body(chance: random.Random) -> bytes:
    body = json.loads(json.dumps(chance.choice(BODIES)))
    for _ in range(chance.randint(0, 3)):
        place: Any = body[0] if isinstance(body, list) and body else body
        if not isinstance(place, dict):
            body = chance.choice(ODD)
            break
        place[chance.choice((*place, CANARY, "stream", "n", "temperature"))] = chance.choice(ODD)
    data = json.dumps(body).encode()
    return data if chance.random() < 0.9 else data[: chance.randrange(len(data) + 1)]
