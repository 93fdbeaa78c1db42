"""Connections that hold the gateway up: clients that read nothing, and that send half a request."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq.event import Cursor
from darkq_gateway import serve
from darkq_gateway.http.connection import Connection
from support.by_hand import Hand, started
from support.gateway_process import gateway_process
from support.http_api import Api
from support.raw_http import DeafClients, connection, make_request, read_response
from support.servers import Server
from support.waiting import wait_until

STYLE = make_request("GET", "/board/board.css")
TIMEOUT_S = 0.5
LARGE = 4 << 20


@contextmanager
def deaf_clients(api: Api) -> Iterator[DeafClients]:
    clients = DeafClients(api.url)
    try:
        yield clients
    finally:
        clients.close()


async def make_result(redis: Redis, size: int = LARGE) -> str:
    """Make a job with a result, by default one that no socket holds; return its path."""
    hand = Hand(redis)
    claim = await hand.take()
    await hand.append(claim, started(1))
    await hand.complete(claim, "x" * size, Cursor(1, 1))
    return f"/jobs/{claim.keys.public_id}/result"


@pytest.mark.slow
async def test_500_clients_without_a_key_that_take_nothing_are_let_go(
    redis_server: Server, redis: Redis, make_key: Any
) -> None:
    """Red without `Connection.pause_writing`: they stay until they like to go."""
    await make_key()
    timeout_s = {"DARKQ_GATEWAY_WRITE_TIMEOUT_S": "1"}
    async with gateway_process(redis_server.url, **timeout_s) as url, Api(url) as api:
        with deaf_clients(api) as clients:
            await clients.connect(500, STYLE, times=600)
            assert clients.open() > 0
            await wait_until("all to be let go", lambda: clients.open() == 0, 40)
            assert (await api("GET", "/healthz")).status == 200


async def test_a_process_closes_connections_beyond_its_bound(
    redis_server: Server, redis: Redis
) -> None:
    """Red where uvloop's transport is not aborted: those beyond the bound stay, unanswered."""
    bound = {"DARKQ_GATEWAY_MAX_CONNECTIONS": "3"}
    async with gateway_process(redis_server.url, **bound) as url, Api(url) as api:
        with deaf_clients(api) as clients:
            await clients.connect(10, b"GET /heal", times=1)
            await wait_until("the others to be closed", lambda: clients.open() == 3)


ERROR = make_request("GET", "/x")


@pytest.mark.parametrize(
    "request_", [STYLE, ERROR, make_request("GET", "/metrics")], ids=["static", "error", "metrics"]
)
async def test_whatever_the_response_is_its_client_must_take_it(
    start_gateway: Any, request_: bytes
) -> None:
    """Red where only streams have a time limit."""
    api = await start_gateway(gateway_write_timeout_s=TIMEOUT_S)
    with deaf_clients(api) as clients:
        await clients.connect(3, request_, times=10_000)
        await wait_until("all to be let go", lambda: clients.open() == 0, 20)


async def test_a_client_that_does_not_take_a_large_result_is_let_go(
    start_gateway: Any, redis: Redis
) -> None:
    """Red without `Connection.pause_writing`."""
    path = await make_result(redis)
    api = await start_gateway(gateway_write_timeout_s=TIMEOUT_S)
    with deaf_clients(api) as clients:
        await clients.connect(3, make_request("GET", path), times=1)
        await wait_until("all to be let go", lambda: clients.open() == 0, 20)


async def test_no_byte_stays_unsent_for_longer_whatever_the_size(
    start_gateway: Any, redis: Redis
) -> None:
    """Red without `set_write_buffer_limits(high=0)`: up to 64 KiB are not noticed."""
    paths = [await make_result(redis, size) for size in range(64 << 10, 512 << 10, 16 << 10)]
    api = await start_gateway(gateway_write_timeout_s=TIMEOUT_S)
    with deaf_clients(api) as clients:
        for path in paths:
            await clients.connect(1, make_request("GET", path), times=1)
        await wait_until("the responses", lambda: any(unsent()))
        await wait_until("nothing to be unsent", lambda: not any(unsent()), 20)
        assert 0 < clients.open() < len(paths), "the sizes are on both sides of what sockets hold"


def unsent() -> list[int]:
    """Return how many bytes each connection of this process holds that the kernel has not taken."""
    found = [each for each in gc.get_objects() if isinstance(each, Connection)]
    return [each.transport.get_write_buffer_size() for each in found if each.transport]


async def test_a_client_that_is_slow_but_takes_some_gets_all(
    start_gateway: Any, redis: Redis
) -> None:
    """Red where a pause ends a connection though its unsent bytes become fewer."""
    path = await make_result(redis)
    api = await start_gateway(gateway_write_timeout_s=TIMEOUT_S)
    received = 0
    loop = asyncio.get_running_loop()
    async with connection(api.url) as (reader, writer), asyncio.timeout(30):
        writer.write(make_request("GET", path))
        begin_s = loop.time()
        while received < LARGE:
            data = await reader.read(100_000)
            assert data, f"closed after {received:,} bytes"
            received += len(data)
            await asyncio.sleep(TIMEOUT_S / 8)  # the pace of a slow link
    assert loop.time() - begin_s > 3 * TIMEOUT_S


async def test_a_response_is_begun_when_its_client_has_taken_the_one_before(
    start_gateway: Any, redis: Redis
) -> None:
    """Red where responses to pipelined requests pile up in memory."""
    path = await make_result(redis)
    api = await start_gateway(gateway_write_timeout_s=30)
    with deaf_clients(api) as clients:
        await clients.connect(1, make_request("GET", path), times=30)

        async def requests() -> int:
            numbers = (await api("GET", "/metrics")).json.decode()
            lines = [
                line for line in numbers.splitlines() if 'route="/jobs/{job_id}/result"' in line
            ]
            return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)

        await wait_until("the first", requests)
        for _ in range(20):
            await api("GET", "/healthz")
        assert await requests() <= 2


@pytest.mark.parametrize(
    "half",
    [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: local", STYLE + b"GET /he"],
    ids=["nothing", "half a line", "half a head", "half a second request"],
)
async def test_half_a_request_is_not_waited_for_without_end(
    start_gateway: Any, half: bytes
) -> None:
    """Red without `Connection._expect_head`."""
    api = await start_gateway(gateway_read_timeout_s=0.3)
    async with connection(api.url) as (reader, writer), asyncio.timeout(10):
        writer.write(half)
        if half.startswith(STYLE):
            await read_response(reader, "GET")
            writer.write(b"x")
        for _ in range(5):  # another byte now and then changes nothing
            writer.write(b"x" if half else b"")
            await asyncio.sleep(0.05)
        assert await reader.read() == b""


async def test_an_idle_connection_is_kept_for_its_own_time(
    start_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red where the time for a head closes connections that proxies keep, or where none does."""
    monkeypatch.setattr(serve, "KEEPALIVE_S", 1.0)
    api = await start_gateway(gateway_read_timeout_s=0.2)
    async with connection(api.url) as (reader, writer), asyncio.timeout(10):
        for _ in range(2):
            writer.write(STYLE)
            assert (await read_response(reader, "GET")).status == 200
            await asyncio.sleep(0.5)
        assert await reader.read() == b""


async def test_who_is_let_go_is_one_line_in_the_log(
    start_gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Red where a client that takes nothing is logged as a bug, or not at all."""
    caplog.set_level(logging.INFO)
    api = await start_gateway(gateway_write_timeout_s=TIMEOUT_S)
    with deaf_clients(api) as clients:
        await clients.connect(1, STYLE, times=2000)
        await wait_until("it to be let go", lambda: clients.open() == 0, 20)
    closed = [record for record in caplog.records if "client does not read" in record.getMessage()]
    assert [record.levelname for record in closed] == ["INFO"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
