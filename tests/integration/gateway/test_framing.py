"""One response to each request on a connection, whatever is asked and whatever fails in between.

Proxies share connections between clients: a byte too much is the next client's response.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from darkq import Client, Settings
from darkq.errors import FileStoreUnavailable
from darkq.serving.files import Files
from darkq_gateway import app as app_module
from darkq_gateway.http.auth import public
from support.http_api import Api
from support.raw_http import (
    BadFraming,
    connection,
    make_request,
    pipelined,
    read_head,
    read_response,
)
from support.waiting import wait_until

METHODS = (
    *("HEAD", "GET", "OPTIONS", "TRACE", "PUT", "PATCH", "PROPFIND", "PURGE", "M-SEARCH"),
    *("POST", "DELETE"),  # last: they change what the others ask for
)
PREFLIGHT = ("Origin: http://localhost", "Access-Control-Request-Method: GET")
ENDLESS = "/board/overview"
SIZE = 30 << 20  # more than sockets hold


class Place(NamedTuple):
    """A target of requests; `endless` if its GET is a stream without an end."""

    target: str
    endless: bool = False


async def every_place(api: Api, working: Any) -> list[Place]:
    """Every path of the gateway, of objects that are there, and of ones that are not."""
    await working()
    job_id = await api.enqueue()
    last = (await api.events(f"/jobs/{job_id}/events"))[-1].id
    asked = {"model": "gpt-4o", "input": "hello", "background": True}
    response_id = (await api("POST", "/v1/responses", asked)).json["id"]
    await api("GET", f"/jobs/{response_id.removeprefix('resp_')}/result?wait_s=10")
    file_id = await upload(api, b'{"a":1}\n')
    order = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch_id = (await api("POST", "/v1/batches", order)).json["id"]
    ids = {
        "job_id": job_id,
        "response_id": response_id,
        "file_id": file_id,
        "batch_id": batch_id,
        "completion_id": f"chatcmpl-{job_id}",
        "model": "gpt-4o",
        "chat_id": "a-chat",
    }
    patterns = {route.path for route in app_module.ROUTES}
    assert ENDLESS in patterns
    known = sorted(re.sub(r"\{(\w+)[^}]*\}", lambda m: ids[m[1]], path) for path in patterns)
    unknown = sorted(re.sub(r"\{(\w+)[^}]*\}", "nothing", path) for path in patterns)
    cursors = [f"/jobs/{job_id}/events?after={cursor}" for cursor in ("1-0", last)]
    streams = [f"/v1/responses/{response_id}?stream=true", *cursors]
    endless = (ENDLESS, f"/batches/{batch_id}/events")  # no worker reads the batch's file
    return [Place(path, path in endless) for path in (*known, *unknown, *streams, "/x")]


async def upload(api: Api, content: Any) -> str:
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", content, filename="in.jsonl")
    answer = await api("POST", "/v1/files", data=form)
    assert answer.status == 200, answer
    file_id: str = answer.json["id"]
    return file_id


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_each_request_of_a_connection_gets_one_response(
    api: Api, working: Any, version: str
) -> None:
    """Red with `web.get(...)` in place of `allow_head=False` on any route that streams, were
    it not for `refuse_streaming_to_head`: with neither, the body of a HEAD is read as a response.
    """
    places = await every_place(api, working)
    statuses: dict[str, set[int]] = {}
    keep = ("Connection: keep-alive",)
    for method in METHODS:
        for place in places:
            if method == "GET" and place.endless:
                continue
            body = b"{}" if method in ("POST", "PUT", "PATCH") else None
            headers = ("Content-Type: application/json", *keep)
            request = make_request(method, place.target, *headers, body=body, version=version)
            variants = [request]
            if method == "OPTIONS":
                variants.append(make_request(method, place.target, *PREFLIGHT, version=version))
            for variant in variants:
                print(method, place.target)
                (response,) = await pipelined(api.url, (method, variant))
                assert response.status < 500
                statuses.setdefault(method, set()).add(response.status)
    assert statuses["HEAD"] >= {200, 404, 405}
    assert statuses["GET"] >= {200, 204, 404, 405}
    for method in ("TRACE", "PUT", "PATCH", "PROPFIND", "PURGE", "M-SEARCH"):
        assert statuses[method] == {404, 405}


async def test_streams_have_no_head(api: Api, working: Any, client: Client) -> None:
    """Red with `allow_head=False` taken off any of the routes that stream.

    The events of a job are a stream until it ends.
    """
    places = {place.target for place in await every_place(api, working)}
    places = {place for place in places if not place.startswith("/jobs/")}
    await client.queue("bulk").pause()
    places.add(f"/jobs/{await api.enqueue(priority='bulk')}/events")
    streams = re.compile(
        r"/board/overview|/(jobs|batches)/[\w-]+/events|/v1/responses/\w.+|/v1/files/.+/content"
    )
    plain = ("/cancel", "/input_items")
    found = [each for each in places if streams.fullmatch(each) and not each.endswith(plain)]
    assert len(found) >= 5
    for target in found:
        async with api.http.head(api.url + target) as answer:
            assert (answer.status, "HEAD" in answer.headers["Allow"]) == (405, False), target
    await client.queue("bulk").resume()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET / HTTX/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
async def test_what_is_no_http_is_answered_once_and_the_connection_closed(
    api: Api, request_: bytes, status: int
) -> None:
    """Red where the gateway goes on to read requests after what it could not read."""
    (response,) = await pipelined(api.url, ("GET", request_))
    assert response.status == status
    assert response.headers["connection"] == "close"


async def test_a_later_version_of_http_is_answered_in_ours(api: Api) -> None:
    """Red where the status line repeats the version of the request."""
    answer = await api.bare(b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize("target", ["localhost:80", "/healthz", "localhost"])
async def test_connect_opens_no_tunnel(api: Api, target: str) -> None:
    """Red where what follows a CONNECT is held back or taken for the other end's bytes."""
    responses = await pipelined(api.url, ("CONNECT", make_request("CONNECT", target)))
    assert [response.status for response in responses] in ([400], [404], [405])


@pytest.mark.parametrize("token", ["websocket", "h2c", "foo/2"])
async def test_nothing_is_upgraded(api: Api, token: str) -> None:
    """Red where a request that offers another protocol ends the reading of requests."""
    upgrade = ("Connection: upgrade", f"Upgrade: {token}")
    request = make_request("GET", "/openapi.json", *upgrade)
    (response,) = await pipelined(api.url, ("GET", request))
    assert (response.status, response.json["openapi"]) == (200, "3.1.0")


async def streams_without_a_thought(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    return response


async def fails_midway(request: web.Request) -> web.StreamResponse:
    await streams_without_a_thought(request)
    raise RuntimeError("a bug")


async def is_refused_midway(request: web.Request) -> web.StreamResponse:
    await streams_without_a_thought(request)
    raise web.HTTPNotFound


async def times_out_midway(request: web.Request) -> web.StreamResponse:
    await streams_without_a_thought(request)
    raise TimeoutError


async def loses_redis_midway(request: web.Request) -> web.StreamResponse:
    await streams_without_a_thought(request)
    raise FileStoreUnavailable("x")


async def returns_another(request: web.Request) -> web.StreamResponse:
    await streams_without_a_thought(request)
    return web.Response(text="another")


async def sends_less_than_it_says(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = 100
    await response.prepare(request)
    await response.write(b"less")
    return response


CARELESS: tuple[Callable[[web.Request], Awaitable[web.StreamResponse]], ...] = (
    fails_midway,
    is_refused_midway,
    times_out_midway,
    loses_redis_midway,
    returns_another,
    sends_less_than_it_says,
)


@pytest.fixture
async def careless(start_gateway: Any, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A gateway with handlers whose authors did not think of framing."""

    def routes() -> list[web.RouteDef]:
        handlers = (*CARELESS, streams_without_a_thought)
        return [web.get(f"/{handler.__name__}", public(handler)) for handler in handlers]

    monkeypatch.setattr(app_module, "ROUTES", [*app_module.ROUTES, *routes()])
    api: Api = await start_gateway()
    return api


@pytest.mark.parametrize("handler", CARELESS, ids=lambda handler: handler.__name__)
async def test_after_the_head_of_a_response_only_the_connection_can_end(
    careless: Api, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Red without the check in `errors`, or for the last two, in `Connection.finish_response`."""
    request = make_request("GET", f"/{handler.__name__}")
    async with connection(careless.url) as (reader, writer), asyncio.timeout(5):
        writer.write(request + make_request("GET", "/healthz"))
        status, _ = await read_head(reader)
        assert status == 200
        try:
            rest = await reader.read()
        except ConnectionError:
            rest = b""
    assert rest.count(b"HTTP/1.1 ") <= 1, "no response but the one that the handler made"
    assert not rest.endswith(b"0\r\n\r\n"), "nor is it told to be complete"
    assert b"something went wrong" not in rest
    assert "Traceback" not in caplog.text


async def test_a_head_has_no_body_though_its_handler_streams(careless: Api) -> None:
    """Red without `refuse_streaming_to_head`."""
    request = ("HEAD", make_request("HEAD", "/streams_without_a_thought"))
    try:
        responses = await pipelined(careless.url, request)
    except BadFraming as error:
        raise AssertionError("the body of a HEAD was sent") from error
    assert responses == [], "the connection is closed, and nothing is sent"
    assert (await careless("GET", "/streams_without_a_thought")).status == 200


async def test_a_file_that_is_deleted_is_whole_or_not_found(api: Api) -> None:
    """Red when the head is sent before the file is open: a 404 stands in the body of a 200."""
    statuses: dict[int, int] = {}
    for _ in range(100):
        file_id = await upload(api, b"0123456789")
        reading = pipelined(api.url, ("GET", make_request("GET", f"/v1/files/{file_id}/content")))
        deleting = api("DELETE", f"/v1/files/{file_id}")
        (response,), _ = await asyncio.gather(reading, deleting)
        statuses[response.status] = statuses.get(response.status, 0) + 1
        assert response.status in (200, 404)
        assert response.status != 200 or response.body == b"0123456789"
    print(statuses)


async def test_a_store_that_fails_in_the_middle_of_a_file_ends_the_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red without the check in `errors`: the file goes on with the text of an error."""
    file_id = await upload(api, b"x" * 1000)

    async def failing(_: Files, __: str | None, ___: str) -> AsyncGenerator[bytes, None]:
        yield b"x" * 600
        raise FileStoreUnavailable("GenericError")

    monkeypatch.setattr(Files, "read", failing)
    request = make_request("GET", f"/v1/files/{file_id}/content")
    async with connection(api.url) as (reader, writer), asyncio.timeout(5):
        writer.write(request + make_request("GET", "/healthz"))
        status, headers = await read_head(reader)
        assert (status, headers["content-length"]) == (200, "1000")
        try:
            rest = await reader.read()
        except ConnectionError:
            rest = b""
    assert rest in (b"x" * 600, b"")
    assert "response aborted" in caplog.text


async def test_a_file_that_cannot_be_opened_is_a_plain_error(
    api: Api, settings: Settings, client: Client
) -> None:
    """Red when the head is sent before the file is open."""
    file_id = await upload(api, b"x" * 1000)
    (content,) = settings.state_dir.glob(f"files/*/{file_id}/content")
    content.unlink()
    request = make_request("GET", f"/v1/files/{file_id}/content")
    (response,) = await pipelined(api.url, ("GET", request))
    assert response.status == 404


async def test_a_file_is_shorter_on_disk_than_it_was(api: Api, settings: Settings) -> None:
    """Red where a response may end before the length that its head says."""
    file_id = await upload(api, b"x" * 1000)
    (content,) = settings.state_dir.glob(f"files/*/{file_id}/content")
    content.write_bytes(b"short")
    request = make_request("GET", f"/v1/files/{file_id}/content")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await pipelined(api.url, ("GET", request))


async def test_a_slow_reader_of_a_file_gets_it_whole_or_is_cut_off(
    start_gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Red with a time limit on each write: a reader that pauses gets an error into its file."""
    caplog.set_level(logging.INFO)
    api = await start_gateway(gateway_write_timeout_s=0.3)
    file_id = await upload(api, io.BytesIO(b"A" * SIZE))
    async with connection(api.url) as (reader, writer), asyncio.timeout(20):
        writer.write(make_request("GET", f"/v1/files/{file_id}/content"))
        await read_head(reader)
        await wait_until("the reader to be let go", lambda: "client does not read" in caplog.text)
        body = b""
        try:
            while data := await reader.read(1 << 20):
                body += data
        except ConnectionError:
            pass
    assert len(body) < SIZE
    assert not body.strip(b"A")
    assert "request failed" not in caplog.text


async def test_interim_responses_do_not_count_as_a_beginning(api: Api) -> None:
    """Red where a sent `100 Continue` is taken for the head of the response."""
    request = make_request(
        "POST", "/jobs", "Expect: 100-continue", "Content-Type: application/json", body=b"{}"
    )
    async with connection(api.url) as (reader, writer), asyncio.timeout(5):
        writer.write(request)
        assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        await reader.readline()
        response = await read_response(reader, "POST")
    assert (response.status, response.json["error"]["code"]) == (422, "invalid_body")


@pytest.mark.parametrize("target", ["/nothing", "/jobs"])
async def test_an_expectation_that_is_not_ascii_is_none(api: Api, target: str) -> None:
    """Red where aiohttp's own 417 quotes it: the text cannot be encoded, which was a 500."""
    answer = await api.bare(
        f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
        + b"Expect: 100-con\xff\r\n\r\n"
    )
    assert int(answer.split()[1]) in (404, 405), answer
