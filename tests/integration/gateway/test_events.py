"""A job's events over HTTP: each once, in order, from any point; ended and left in order."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq.event import Cursor
from darkq_gateway.http import sse_response
from darkq_gateway.serve import gateway
from support.by_hand import Hand, chunk, started
from support.http_api import Api
from support.waiting import wait_until


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


async def test_a_reader_may_come_again_after_every_event(api: Api, working: Any) -> None:
    await working(chunks=12, chunks_per_s=200)
    job_id = await api.enqueue()
    seen = await api.events(f"/jobs/{job_id}/events")
    ids = [event.id for event in seen]
    assert json.loads(seen[-1].data)["type"] == "completed"
    assert len(ids) == len(set(ids)) >= 4
    for number, last in enumerate(ids[:-1]):
        for options in ({"Last_Event_ID": last}, {}):
            query = "" if options else f"?after={last}"
            rest = await api.events(f"/jobs/{job_id}/events{query}", **options)
            assert rest == seen[number + 1 :]


async def test_a_browser_that_has_seen_the_end_is_told_not_to_come_again(
    api: Api, working: Any
) -> None:
    await working()
    job_id = await api.enqueue()
    last = (await api.events(f"/jobs/{job_id}/events"))[-1].id
    answer = await api("GET", f"/jobs/{job_id}/events", headers={"Last-Event-ID": last})
    assert answer.status == 204


async def test_the_header_is_newer_than_the_query(api: Api, hand: Hand) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1), chunk(1, 2))
    await hand.complete(claim, "x", Cursor(1, 3))
    path = f"/jobs/{claim.keys.public_id}/events?after=1-0"
    events = await api.events(path, Last_Event_ID="1-2")
    assert [event.id for event in events] == ["1-3"]


async def test_a_cursor_beyond_the_log_is_gone(api: Api, working: Any) -> None:
    await working()
    job_id = await api.enqueue()
    await api.events(f"/jobs/{job_id}/events")
    answer = await api("GET", f"/jobs/{job_id}/events?after=9-9")
    assert (answer.status, answer.code) == (410, "cursor_gone")


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1-", "-1-2", "1-2\x00", "1-2 3", "9" * 40 + "-1", "é"]
)
async def test_what_is_no_cursor_is_refused(api: Api, cursor: str) -> None:
    job_id = await api.enqueue()
    answer = await api("GET", f"/jobs/{job_id}/events", params={"after": cursor})
    assert (answer.status, answer.json["error"]["field"]) == (422, "after")


async def test_every_frame_has_data_and_text_cannot_break_it(api: Api, hand: Hand) -> None:
    claim = await hand.take()
    nasty = "\r\n\r\ndata: x\n\nid: 9-9\r\u2028\u0085\0"
    await hand.append(claim, started(1), chunk(1, 1, nasty))
    await hand.complete(claim, nasty, Cursor(1, 2))
    answer = await api("GET", f"/jobs/{claim.keys.public_id}/events")
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    frames = answer.json.removesuffix(b"\n\n").split(b"\n\n")
    assert [len(re.findall(rb"^data: ", frame, re.MULTILINE)) for frame in frames] == [1] * 4
    texts = [json.loads(frame.partition(b"data: ")[2].partition(b"\n")[0]) for frame in frames]
    assert texts[2]["text"] == nasty
    assert re.fullmatch(rb"retry: \d+\ndata: .*\nid: 0-1", frames[0])


async def test_a_silent_stream_begins_at_once_and_shows_that_it_lives(
    start_gateway: Any, hand: Hand
) -> None:
    api = await start_gateway(gateway_heartbeat_s=0.05)
    claim = await hand.take()
    async with api.http.get(f"{api.url}/jobs/{claim.keys.public_id}/events?after=0-1") as response:
        assert response.status == 200
        pings = [await response.content.readline() for _ in range(3)]
        assert pings == [b": ping\n"] * 3
        await hand.append(claim, started(1))
        while (line := await response.content.readline()) == b": ping\n":
            pass
        assert line.startswith(b"retry: ")
        assert b'"started"' in await response.content.readline()
        assert await response.content.readline() == b"id: 1-0\n"


async def test_a_reader_that_leaves_ends_its_own_tail_only(
    api: Api, hand: Hand, redis: Redis
) -> None:
    claim = await hand.take()
    path = f"/jobs/{claim.keys.public_id}/events"
    async with api.stream(path) as stays:
        first = await anext(stays)
        async with api.stream(path) as leaves:
            assert await anext(leaves) == first
        await hand.append(claim, started(1), chunk(1, 1))
        await hand.complete(claim, "x", Cursor(1, 2))
        assert [event.id async for event in stays] == ["1-0", "1-1", "1-2"]
    await wait_until("the subscriptions to end", lambda: no_reader(redis))


async def test_a_reader_that_takes_nothing_is_let_go_and_misses_nothing(
    start_gateway: Any, hand: Hand, redis: Redis
) -> None:
    api = await start_gateway(gateway_write_timeout_s=0.3)
    claim = await hand.take()
    await hand.append(claim, started(1))
    path = f"/jobs/{claim.keys.public_id}/events"
    port = int(api.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"id: 1-0")
    for n in range(1, 200):  # more than the sockets hold
        await hand.append(claim, chunk(1, n, "x" * 100_000))
    await wait_until("the reader to be let go", lambda: no_reader(redis))
    with suppress(ConnectionError):
        async with asyncio.timeout(5):
            while await reader.read(1 << 20):  # what the sockets hold, and then the end
                pass
    writer.close()
    await hand.complete(claim, "x", Cursor(1, 200))
    patient = await start_gateway()
    events = await patient.events(f"{path}?after=1-0")
    assert [event.id for event in events] == [f"1-{n}" for n in range(1, 201)]


async def no_reader(redis: Redis) -> bool:
    return not await redis.pubsub_channels("darkq:live:*")


async def test_readers_beyond_the_bound_are_told_to_come_again(
    start_gateway: Any, redis: Redis
) -> None:
    api = await start_gateway(gateway_max_readers=1)
    job_id = await api.enqueue()
    async with api.stream(f"/jobs/{job_id}/events") as events:
        await anext(events)
        answer = await api("GET", f"/jobs/{job_id}/events")
        assert (answer.status, answer.code) == (503, "too_many_readers")
        assert answer.headers["Retry-After"]
    await wait_until("the reader to have left", lambda: no_reader(redis))
    async with api.stream(f"/jobs/{job_id}/events") as events:
        await anext(events)


async def test_a_gateway_that_stops_ends_streams_so_that_they_go_on_elsewhere(
    make_settings: Any, hand: Hand
) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    path = f"/jobs/{claim.keys.public_id}/events"
    seen: list[str] = []
    settings = make_settings(gateway_port=0, gateway_drain_s=5)
    stop = asyncio.Event()
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def first_process() -> None:
        async with gateway(settings) as url:
            listening.set_result(url)
            await stop.wait()

    process = asyncio.create_task(first_process())
    async with Api(await listening) as api, api.stream(path) as events:
        async for event in events:  # ends in order: no error, and no terminal event
            seen.append(event.id)
            if event.id == "1-1":
                stop.set()
    await asyncio.wait_for(process, 3)
    assert seen == ["0-1", "1-0", "1-1"]
    await hand.append(claim, chunk(1, 2))
    await hand.complete(claim, "x", Cursor(1, 3))
    async with gateway(settings) as url, Api(url) as api:
        seen += [event.id for event in await api.events(path, Last_Event_ID=seen[-1])]
    assert seen == ["0-1", "1-0", "1-1", "1-2", "1-3"]


async def test_a_stream_that_has_not_begun_is_ended_so_that_it_goes_on_too(
    make_settings: Any, hand: Hand, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse_response, "BEGIN_S", 30.0)
    claim = await hand.take()
    process = AsyncExitStack()
    url = await process.enter_async_context(gateway(make_settings(gateway_port=0)))
    async with process, Api(url) as api:
        path = f"/jobs/{claim.keys.public_id}/events?after=0-1"
        answer = asyncio.create_task(api("GET", path))
        await wait_until("the reader", lambda: redis.pubsub_channels("darkq:live:*"))
        await process.aclose()
        assert (await answer).status == 200, "a 204 would tell it not to come again"


async def test_an_error_in_the_middle_is_an_event_with_an_error(
    api: Api, hand: Hand, redis: Redis
) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    async with api.stream(f"/jobs/{claim.keys.public_id}/events") as events:
        for _ in range(3):
            await anext(events)
        # A Redis that has lost what it acknowledged.
        await redis.xtrim(claim.keys.events, maxlen=0)
        await hand.append(claim, chunk(1, 9))
        last = [event async for event in events][-1]
    assert json.loads(last.data)["error"]["code"] == "cursor_gone"
