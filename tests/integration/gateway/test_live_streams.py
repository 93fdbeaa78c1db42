"""Live streams of one job, which share a fan-out: their bytes, their log record, slow ones."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq.event import Cursor
from darkq.sse import EventDecoder
from support.by_hand import Hand, chunk, event_ids, started
from support.http_api import Api
from support.raw_http import DeafClients, connection, make_request, read_response
from support.waiting import wait_until


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


def ids_in(body: bytes) -> list[str]:
    return [event.id for event in EventDecoder().feed(body)]


async def test_live_events_are_framed_for_each_version_of_http(
    api: Api, hand: Hand, redis: Redis
) -> None:
    """Red when a reader of HTTP/1.0 gets chunks, or the end of the chunks is missing."""
    claim = await hand.take()
    await hand.append(claim, started(1))
    path = f"/jobs/{claim.keys.public_id}/events"
    async with AsyncExitStack() as stack:
        readers = []
        for version in ("HTTP/1.0", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"):
            reader, writer = await stack.enter_async_context(connection(api.url))
            writer.write(make_request("GET", path, version=version))
            readers.append(reader)
        reading = [asyncio.create_task(read_response(reader, "GET")) for reader in readers]
        await wait_until("a reader", lambda: redis.pubsub_channels("darkq:live:*"))
        for n in range(1, 50):
            await hand.append(claim, chunk(1, n, f"ü\n{n}"))
        await hand.complete(claim, "x", Cursor(1, 50))
        responses = await asyncio.wait_for(asyncio.gather(*reading), 20)
    ids = await event_ids(redis, claim.keys)
    for response in responses:
        assert ids_in(response.body) == ids
        assert re.match(rb"retry: \d+\ndata: .*\nid: 0-1\n", response.body)
    framing = [response.headers.get("transfer-encoding") for response in responses]
    assert framing == [None, "chunked", "chunked", None]


async def test_the_log_record_counts_live_bytes(
    api: Api, hand: Hand, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when bytes that bypass aiohttp's writer are not counted."""
    caplog.set_level(logging.INFO, "darkq.gateway.access")
    claim = await hand.take()
    await hand.append(claim, started(1))
    path = f"/jobs/{claim.keys.public_id}/events"
    async with connection(api.url) as (reader, writer):
        writer.write(make_request("GET", path, version="HTTP/1.0"))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"id: 1-0\n")
        for n in range(1, 20):
            await hand.append(claim, chunk(1, n, "some text"))
        await hand.complete(claim, "x", Cursor(1, 20))
        await reader.read()
    (record,) = [each for each in caplog.messages if "/jobs/{job_id}/events" in each]
    counted = int(re.search(r"bytes=(\d+)", record)[1])  # type: ignore[index]
    async with connection(api.url) as (reader, writer):
        writer.write(make_request("GET", f"{path}?after=0-0", version="HTTP/1.0"))
        whole = await reader.read()
    body = whole.partition(b"\r\n\r\n")[2]
    # The two differ in nothing but the digits of `retry`.
    assert abs(counted - len(head) - len(body)) <= 2


async def test_a_client_that_reads_nothing_delays_no_other(
    start_gateway: Any, hand: Hand, redis: Redis
) -> None:
    api = await start_gateway(gateway_write_timeout_s=30)
    claim = await hand.take()
    await hand.append(claim, started(1))
    path = f"/jobs/{claim.keys.public_id}/events"
    deaf = DeafClients(api.url)
    await deaf.connect(3, make_request("GET", path), times=1)
    async with connection(api.url) as (reader, writer):
        writer.write(make_request("GET", path))
        reading = asyncio.create_task(read_response(reader, "GET"))
        await wait_until("a reader", lambda: redis.pubsub_channels("darkq:live:*"))
        for n in range(1, 60):  # more than the sockets hold
            await hand.append(claim, chunk(1, n, "x" * 100_000))
        await hand.complete(claim, "x", Cursor(1, 60))
        response = await asyncio.wait_for(reading, 20)
    deaf.close()
    assert ids_in(response.body) == await event_ids(redis, claim.keys)
    overflows = (await api("GET", "/metrics")).json.decode()
    assert "darkq_gateway_reader_overflows_total" in overflows


async def test_a_reader_may_leave_and_return_while_others_stay(
    api: Api, hand: Hand, redis: Redis
) -> None:
    """Red when the last event before a return is lost, or sent again."""
    claim = await hand.take()
    await hand.append(claim, started(1))
    path = f"/jobs/{claim.keys.public_id}/events"
    async with api.stream(path) as stays:
        seen = [(await anext(stays)).id, (await anext(stays)).id]
        returned: list[str] = list(seen)
        for n in range(1, 30):
            async with api.stream(f"{path}?after={returned[-1]}") as leaves:
                await hand.append(claim, chunk(1, n))
                event = await anext(leaves)
                assert json.loads(event.data)["type"] == "chunk"
                returned.append(event.id)
            seen.append((await anext(stays)).id)
        await hand.complete(claim, "x", Cursor(1, 30))
        seen += [event.id async for event in stays]
    ids = await event_ids(redis, claim.keys)
    assert seen == ids
    assert returned == ids[:-1]
    await wait_until("no reader", lambda: _is_silent(redis))


async def _is_silent(redis: Redis) -> bool:
    return not await redis.pubsub_channels("darkq:live:*")
