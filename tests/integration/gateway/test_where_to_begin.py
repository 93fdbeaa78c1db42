"""Where a stream begins, and how much of the past it has: `?after=now`, `?compact=1`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.event import Cursor
from support.by_hand import Hand, chunk, started
from support.http_api import Api


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


def read(frames: list[Any]) -> list[tuple[str, str]]:
    """Return the id of each event, and its text or its type."""
    events = [json.loads(frame.data) for frame in frames]
    return [(event["id"], event.get("text", event["type"])) for event in events]


async def test_past_pieces_are_merged_and_live_ones_are_not(api: Api, hand: Hand) -> None:
    claim = await hand.take()
    words = [chunk(1, n, f"word{n} ") for n in range(1, 4)]
    await hand.append(claim, started(1), *words)
    async with api.stream(f"/jobs/{claim.keys.public_id}/events?compact=1") as stream:
        past = [await anext(stream) for _ in range(3)]
        await hand.append(claim, chunk(1, 4, "live "), chunk(1, 5, "too"))
        await hand.complete(claim, "word1 word2 word3 live too", Cursor(1, 6))
        assert read(past) == [
            ("0-1", "queued"),
            ("1-0", "started"),
            ("1-3", "word1 word2 word3 "),
        ]
        assert ev.decode(past[2].data) == ev.Chunk(id="1-3", text="word1 word2 word3 ", merged=3)
        live = [event async for event in stream]
    assert read(live) == [("1-4", "live "), ("1-5", "too"), ("1-6", "completed")]


async def test_a_finished_answer_is_one_piece(api: Api, working: Any) -> None:
    await working(chunks=12, chunks_per_s=200)
    job_id = await api.enqueue()
    whole = read(await api.events(f"/jobs/{job_id}/events"))
    path = f"/jobs/{job_id}/events?compact=1"
    queued, begun, answer, completed = read(await api.events(path))
    assert [queued, begun, completed] == [whole[0], whole[1], whole[-1]]
    assert answer == (whole[-2][0], "".join(text for _, text in whole[2:-1]))
    assert read(await api.events(path, Last_Event_ID=begun[0])) == [answer, completed]


async def test_a_stream_from_now_has_only_what_comes(api: Api, hand: Hand) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1), chunk(1, 2))
    path = f"/jobs/{claim.keys.public_id}/events?after=now"
    async with api.http.get(f"{api.url}{path}") as response:
        head = await response.content.readuntil(b"\n\n")
        # No event, but an EventSource keeps its id: it reconnects from there.
        assert head.splitlines()[1:] == [b"id: 1-2", b""]
        await hand.append(claim, chunk(1, 3))
        await hand.complete(claim, "xxx", Cursor(1, 4))
        rest = await response.content.read()
    assert [line for line in rest.splitlines() if line.startswith(b"id")] == [
        b"id: 1-3",
        b"id: 1-4",
    ]
    assert read(await api.events(path, Last_Event_ID="1-3"))[0][0] == "1-4"


async def test_nothing_comes_after_the_end(api: Api, working: Any) -> None:
    await working()
    job_id = await api.enqueue()
    await api.events(f"/jobs/{job_id}/events")
    assert (await api("GET", f"/jobs/{job_id}/events?after=now")).status == 204


@pytest.mark.parametrize("query", ["compact=2", "compact=yes", "compact="])
async def test_compact_is_a_number(api: Api, query: str) -> None:
    job_id = await api.enqueue()
    answer = await api("GET", f"/jobs/{job_id}/events?{query}")
    assert (answer.status, answer.json["error"]["field"]) == (422, "compact")


async def test_a_cursor_in_a_header_is_never_now(api: Api) -> None:
    job_id = await api.enqueue()
    answer = await api("GET", f"/jobs/{job_id}/events", headers={"Last-Event-ID": "now"})
    assert answer.status == 422
