"""Following a batch: each end once and in order, from any cursor; with the events of its jobs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from darkq import (
    Chunk,
    Client,
    Completed,
    CursorGone,
    Job,
    Line,
    LineEnded,
    LineEvent,
    Settings,
    Started,
)
from darkq.batches import lease as batch_control
from darkq.batches.results import Position
from darkq.batches.tail import BatchCursor
from darkq.protocol.keys import BatchKeys, JobKeys

Start = Callable[[], Awaitable[None]]


async def ends_of(client: Client, batch_id: str, after: str | None = None) -> list[LineEnded]:
    return [end async for end in client.batch(batch_id).events(after)]


def numbers(ends: Sequence[LineEnded | LineEvent]) -> list[int]:
    """The numbers of the ends in a batch's log."""
    return [BatchCursor.parse(end.cursor).ends.number for end in ends]


async def items_of(
    client: Client, batch_id: str, after: str | None = None
) -> list[LineEvent | LineEnded]:
    return [item async for item in client.batch(batch_id).tail(after)]


@pytest.mark.usefixtures("worker")
async def test_anybody_follows_the_ends_while_they_come(client: Client, settings: Settings) -> None:
    async with Client(settings=settings) as other, client.batch(window=10) as batch:
        follower = asyncio.create_task(ends_of(other, batch.id))
        mine = [end async for end in batch.run(["x"] * 30)]
        seen = await follower
    assert [end.number for end in seen] == [end.number for end in mine]
    assert numbers(seen) == list(range(1, 31))
    assert JobKeys.parse(seen[0].job_id) == BatchKeys.parse(batch.id).job(seen[0].number)


@pytest.mark.usefixtures("worker")
async def test_so_many_acknowledged_ends_are_kept(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_control, "KEPT_ENDS", 5)
    async with client.batch(window=10) as batch:
        _ = [end async for end in batch.run(["x"] * 30)]
    assert numbers(await ends_of(client, batch.id, "25")) == [26, 27, 28, 29, 30]
    assert await ends_of(client, batch.id, "30") == []
    for kept in (await ends_of(client, batch.id), await items_of(client, batch.id)):
        assert numbers(kept) == [26, 27, 28, 29, 30]
    for gone in ("0", "24", "31"):
        with pytest.raises(CursorGone):
            await ends_of(client, batch.id, gone)
        with pytest.raises(CursorGone):
            await items_of(client, batch.id, gone)


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1-2", "1,", "1,0:1-1", "1,2:3", "٣", "1" * 16])
async def test_what_is_no_cursor_is_refused(client: Client, cursor: str) -> None:
    for stream in (client.batch().events(cursor), client.batch().tail(cursor)):
        with pytest.raises(ValueError, match="cursor"):
            await anext(stream)


def check_story(items: list[LineEvent | LineEnded], lines: int) -> None:
    """Each line: started, its chunks, completed, and then its end; ends in order."""
    told: dict[int, list[LineEvent | LineEnded]] = {}
    for item in items:
        told.setdefault(item.number, []).append(item)
    assert sorted(told) == list(range(1, lines + 1))
    for story in told.values():
        *events, end = story
        assert isinstance(end, LineEnded)
        kinds = [type(item.event) for item in events if isinstance(item, LineEvent)]
        assert kinds[0] is Started
        assert kinds[-1] is Completed
        assert set(kinds[1:-1]) == {Chunk}
        ids = [item.event.id for item in events if isinstance(item, LineEvent)]
        assert ids == [f"1-{n}" for n in range(len(ids))]
    ends = numbers([item for item in items if isinstance(item, LineEnded)])
    assert ends == list(range(1, lines + 1))


@pytest.mark.usefixtures("worker")
async def test_the_jobs_events_come_as_they_are_made(client: Client, settings: Settings) -> None:
    async with Client(settings=settings) as other, client.batch() as batch:
        follower = asyncio.create_task(items_of(other, batch.id))
        await asyncio.sleep(0)
        await batch.add_many(
            Line(number=n, custom_id=str(n), job=Job.create("x", priority="bulk"))
            for n in range(1, 13)
        )
        await batch.close_input()
        items = await follower
        assert [item async for item in other.batch(batch.id).tail()] != []
        async with aclosing(batch.results()) as results:
            assert len([end async for end in results]) == 12
    check_story(items, 12)
    assert all(isinstance(item, LineEnded) for item in await items_of(client, batch.id))


@pytest.mark.usefixtures("worker")
async def test_from_any_cursor_exactly_the_rest_comes(client: Client) -> None:
    async with client.batch() as batch:
        await batch.add_many(
            Line(number=n, custom_id=str(n), job=Job.create("x", priority="bulk"))
            for n in range(1, 8)
        )
        await batch.close_input()
        items = await items_of(client, batch.id)
        check_story(items, 7)
        assert re.fullmatch(r"7@\d+", items[-1].cursor), "what has ended is in no cursor any more"
        for cut in range(len(items)):
            rest = await items_of(client, batch.id, items[cut].cursor)
            check_story(items[: cut + 1] + rest, 7)


@pytest.mark.usefixtures("worker")
async def test_a_reader_that_leaves_at_any_point_and_comes_back_misses_and_repeats_nothing(
    client: Client,
) -> None:
    async with client.batch() as batch:

        async def read() -> list[LineEvent | LineEnded]:
            items: list[LineEvent | LineEnded] = []
            steps = 0
            while True:
                steps = steps % 7 + 1
                after = items[-1].cursor if items else None
                stream = batch.tail(after)
                async with aclosing(stream):
                    some = [item for _ in range(steps) if (item := await _next(stream))]
                items += some
                if len(some) < steps:
                    return items

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        for n in range(1, 16):
            await batch.add(f"prompt {n}")
        await batch.close_input()
        check_story(await reader, 15)


async def _next(
    stream: AsyncGenerator[LineEvent | LineEnded, None],
) -> LineEvent | LineEnded | None:
    return await anext(stream, None)


async def test_leaving_a_tail_leaves_no_subscription(client: Client, redis: Redis) -> None:
    async with client.batch() as batch:
        await batch.add("x")
        stream = batch.tail()
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await stream.aclose()
        assert not client._live._channels


@given(
    st.integers(0, 10**15 - 1),
    st.dictionaries(
        st.integers(1, 10**9 - 1),
        st.tuples(st.integers(0, 10**14), st.integers(0, 10**14)),
        max_size=20,
    ),
)
def test_a_place_survives_being_written_down(ends: int, lines: dict[int, tuple[int, int]]) -> None:
    from darkq.event import Cursor

    place = BatchCursor(Position(ends), {line: Cursor(*at) for line, at in lines.items()})
    assert BatchCursor.parse(str(place)) == place


@given(st.text(max_size=40))
def test_no_text_but_a_place_is_one(text: str) -> None:
    try:
        place = BatchCursor.parse(text)
    except ValueError:
        return
    assert BatchCursor.parse(str(place)) == place


@pytest.mark.usefixtures("worker")
async def test_a_late_reader_gets_a_long_batch_s_ends_in_order(client: Client) -> None:
    async with client.batch(window=100) as batch:
        _ = [end async for end in batch.run(["x"] * 450)]
    items = await items_of(client, batch.id)
    assert numbers(items) == list(range(1, 451))
    assert await items_of(client, batch.id, "440") == items[440:]
