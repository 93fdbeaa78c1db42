"""SIGTERM while requests are in progress: which of them are waited for, and for how long."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from darkq.event import Cursor
from support.attacks import FILE, upload_request
from support.by_hand import Hand, started
from support.gateway_process import DarkqProcess, darkq, listening
from support.http_api import Api
from support.raw_http import DeafClients, connection, make_request, read_response
from support.servers import Server

SOON_S = 12.0
"""Far below the 20 s that requests may take by default, far above a second of silence."""

UPLOAD = upload_request(
    FILE + b"y" * (1 << 20) + b'\r\n--BBB\r\nContent-Disposition: form-data; name="purpose"'
    b"\r\n\r\nbatch\r\n--BBB--\r\n"
)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[tuple[DarkqProcess, str]]:
    async with darkq(server.url, "gateway", DARKQ_GATEWAY_PORT="0") as process:
        yield process, await listening(process)


async def ends_soon(process: DarkqProcess) -> None:
    rest = asyncio.create_task(process.stderr.read())
    assert await asyncio.wait_for(process.wait(), SOON_S) == 0
    assert b" ERROR " not in await rest


async def test_an_upload_under_way_is_read_to_its_end(redis_server: Server, redis: Redis) -> None:
    """Red with aiohttp's `data_received`: the rest is thrown away, and nothing is answered."""
    half = len(UPLOAD) // 2
    async with running(redis_server) as (process, url), connection(url) as (reader, writer):
        writer.write(UPLOAD[:half])
        await writer.drain()
        async with Api(url) as api:  # by its answer the gateway has read what was sent before
            assert (await api("GET", "/healthz")).status == 200
        process.send_signal(signal.SIGTERM)
        while b"shutting down" not in await process.stderr.readline():
            pass
        writer.write(UPLOAD[half:])
        response = await asyncio.wait_for(read_response(reader, "POST"), SOON_S)
        assert response.status == 200, response
        await ends_soon(process)


@pytest.mark.parametrize(
    "request_",
    [
        UPLOAD[: len(UPLOAD) // 2],
        make_request("POST", "/jobs", "Content-Type: application/json", body=b"{" * 99)[:-9],
        make_request("GET", "/healthz") + b"GET /heal",
        make_request("GET", "/healthz"),
    ],
    ids=["half an upload", "half a body", "half a head", "idle"],
)
async def test_a_client_that_sends_nothing_is_not_waited_for(
    redis_server: Server, redis: Redis, request_: bytes
) -> None:
    """Red with aiohttp's `shutdown`: a body that does not come is waited for, for 20 s."""
    async with running(redis_server) as (process, url), connection(url) as (_, writer):
        writer.write(request_)
        await writer.drain()
        async with Api(url) as api:
            assert (await api("GET", "/healthz")).status == 200
        process.send_signal(signal.SIGTERM)
        await ends_soon(process)


async def test_a_client_that_takes_nothing_is_not_waited_for(
    redis_server: Server, redis: Redis
) -> None:
    """Red without the unsent bytes in `_waits_for_client`: an answer is kept for 20 s."""
    hand = Hand(redis)
    claim = await hand.take()
    await hand.append(claim, started(1))
    await hand.complete(claim, "x" * (4 << 20), Cursor(1, 1))
    async with running(redis_server) as (process, url):
        clients = DeafClients(url)
        result = make_request("GET", f"/jobs/{claim.keys.public_id}/result")
        await clients.connect(3, result, times=1)
        async with Api(url) as api:
            assert (await api("GET", "/healthz")).status == 200
        process.send_signal(signal.SIGTERM)
        await ends_soon(process)
        clients.close()
