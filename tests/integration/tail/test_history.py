"""A completed job has its log in its result: readers see the same events as before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import UNSET
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from darkq import Client
from darkq import event as ev
from darkq.errors import CursorGone
from darkq.event import START, AnyEvent, Cursor
from darkq.jobs.tail import LogReader
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import decode_job, decode_result
from darkq.redis.scripts import Claim
from integration.tail.conftest import Lossy, Reader, StartReader
from integration.tail.scenes import all_of, next_attempt, write
from support.by_hand import Hand, chunk, event_ids, history_of, started
from support.waiting import wait_until


async def read_log(redis: Redis, keys: JobKeys) -> list[AnyEvent]:
    return [ev.decode(fields[b"e"]) for _, fields in await redis.xrange(keys.events)]


async def complete(hand: Hand, claim: Claim, *texts: str) -> list[AnyEvent]:
    """Complete a job that has written these texts; return the log as it would have been."""
    log = await read_log(hand.redis, claim.keys)
    begin = [event.id for event in log].index(f"{claim.attempt}-0")
    at = Cursor(claim.attempt, len(texts) + 1)
    record = await hand.complete(claim, "".join(texts), at, history=history_of(log[begin:]))
    return [*log, ev.Completed(id=str(at), at_ms=record.ft)]


async def answered(hand: Hand, *texts: str) -> tuple[JobKeys, list[AnyEvent]]:
    claim = await hand.take()
    await write(hand, claim, *texts)
    return claim.keys, await complete(hand, claim, *texts)


async def two_attempts(hand: Hand) -> tuple[JobKeys, list[AnyEvent]]:
    claim = await hand.take()
    await write(hand, claim, "One ", "two")
    again = await next_attempt(hand, claim, 3)
    await write(hand, again, "Uno ", "dos ", "tres")
    return claim.keys, await complete(hand, again, "Uno ", "dos ", "tres")


async def test_the_log_is_gone_and_every_cursor_continues(
    hand: Hand, redis: Redis, read: StartReader
) -> None:
    keys, log = await two_attempts(hand)
    assert not await redis.exists(keys.events)
    for place, seen in enumerate([START, *(event.cursor for event in log)]):
        reader = read(keys, seen)
        await reader.end()
        assert reader.seen == log[place:]


async def test_a_cursor_that_no_event_had_is_gone(hand: Hand, read: StartReader) -> None:
    keys, _ = await answered(hand, "One ", "two")
    for cursor in (Cursor(1, 4), Cursor(2, 0)):
        with pytest.raises(CursorGone):
            await read(keys, cursor).end()


async def test_a_superseded_cursor_that_no_event_had_goes_on_with_the_next_attempt(
    hand: Hand, read: StartReader
) -> None:
    """As it does while there is a log."""
    keys, log = await two_attempts(hand)
    reader = read(keys, Cursor(1, 70))
    await reader.end()
    assert reader.seen == log[-5:]


async def test_another_run_of_an_attempt_is_not_joined_to_the_first(
    hand: Hand, redis: Redis, live: Lossy
) -> None:
    """A Redis that forgot the first run has the end of another one, with the same numbers."""
    claim = await hand.take()
    reader = Reader(redis, live, claim.keys)
    other = ev.Started(id="1-0", attempt=1, model="m", upstream="other", at_ms=7)
    await hand.append(claim, other, chunk(1, 1, "One "))
    await wait_until("the first words", lambda: reader.text(1) == "One ")
    live.to_lose = 1
    history = history_of([started(1), chunk(1, 1, "Uno "), chunk(1, 2, "dos")])
    await hand.complete(claim, "Uno dos", Cursor(1, 3), history=history)
    await redis.client_kill_filter(_type="pubsub")
    with pytest.raises(CursorGone):
        await reader.end()
    assert reader.text(1) == "One "


class Meanwhile(Redis):
    """Does something before its next call."""

    then: Callable[[], Awaitable[object]] | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await self._do()
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipe = super().pipeline(*args, **options)
        execute = pipe.execute

        async def execute_later(*args: Any, **options: Any) -> Any:
            await self._do()
            return await execute(*args, **options)

        pipe.execute = execute_later  # type: ignore[method-assign]
        return pipe

    async def _do(self) -> None:
        then, self.then = self.then, None
        if then is not None:
            await then()


@pytest.mark.parametrize("pages", range(5))
async def test_a_job_may_complete_between_two_pages(
    hand: Hand, redis: Redis, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """Red when a reader of a log that has gone takes a page for the last one."""
    monkeypatch.setattr("darkq.jobs.tail.PAGE_EVENTS", 2)
    claim = await hand.take()
    texts = [f"word{n} " for n in range(5)]
    await write(hand, claim, *texts)
    client = Meanwhile(connection_pool=redis.connection_pool)
    reader = LogReader(client, claim.keys, START)
    log: list[AnyEvent] = []
    seen: list[AnyEvent] = []

    async def end() -> None:
        log.extend(await complete(hand, claim, *texts))

    for number in range(10):
        if number == pages:
            client.then = end
        seen += await reader.next_page()
    assert reader.ended
    assert seen == log


async def test_a_log_with_a_long_earlier_attempt_stays(
    hand: Hand, redis: Redis, read: StartReader, client: Client
) -> None:
    """To copy it would block the server. Red when `finish` copies all events."""
    claim = await hand.take()
    await write(hand, claim, *["x"] * 1000)
    again = await next_attempt(hand, claim, 1001)
    await write(hand, again, "Uno ", "dos")
    log = await complete(hand, again, "Uno ", "dos")
    assert await read_log(redis, claim.keys) == log
    kept = decode_result(await redis.get(claim.keys.result)).h
    assert kept is not UNSET
    assert kept.earlier == ()
    for place in (-1, 0, 500, 1002, 1003, 1004, 1006):
        reader = read(claim.keys, log[place].cursor if place >= 0 else START)
        await reader.end()
        assert reader.seen == log[place + 1 :]
    job = client.job(claim.keys.public_id)
    assert await job.latest_attempt() == "1-1001"
    assert await job.latest_event() == "2-3"


async def test_a_log_with_a_long_earlier_text_stays(hand: Hand, redis: Redis) -> None:
    """Red when a result has the texts of lost attempts."""
    claim = await hand.take()
    await write(hand, claim, *["x" * 60_000] * 17)
    again = await next_attempt(hand, claim, 18)
    await write(hand, again, "Uno ", "dos")
    log = await complete(hand, again, "Uno ", "dos")
    assert await read_log(redis, claim.keys) == log
    assert len(await redis.get(claim.keys.result)) < 1000


async def test_other_tasks_run_between_the_pages_of_a_history(hand: Hand, redis: Redis) -> None:
    """Pages of a history need no call. Red when a reader of a long one lets nothing else run."""
    keys, log = await answered(hand, *["x"] * 2000)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    reader = LogReader(redis, keys, START)
    seen = await reader.next_page()
    counting = asyncio.create_task(count_turns())
    while page := await reader.next_page():
        seen += page
    counting.cancel()
    assert seen == log
    assert turns >= len(log) // 256


async def test_a_text_and_its_latest_attempt_are_found(hand: Hand, client: Client) -> None:
    keys, log = await two_attempts(hand)
    job = client.job(keys.public_id)
    assert await job.latest_attempt() == log[4].id
    assert await all_of(job.text()) == "Uno dos tres"
    assert await all_of(job.text(after="2-1")) == "dos tres"
    assert [event async for page in job.history("2-2") for event in page] == log[-2:]


async def test_a_job_may_complete_while_its_latest_attempt_is_looked_for(
    hand: Hand, redis: Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when an empty log is taken for the beginning of one."""
    claim = await hand.take()
    await write(hand, claim, "One ", "two")
    again = await next_attempt(hand, claim, 3)
    await write(hand, again, "Uno ", "dos")
    job = client.job(claim.keys.public_id)
    ask = job._redis.xrevrange

    async def ask_and_complete(*args: Any, **options: Any) -> Any:
        reply = await ask(*args, **options)
        monkeypatch.undo()
        await complete(hand, again, "Uno ", "dos")
        return reply

    monkeypatch.setattr(job._redis, "xrevrange", ask_and_complete)
    assert await job.latest_attempt() == "1-3"
    assert not await redis.exists(claim.keys.events)


async def test_an_end_that_is_sent_twice_is_the_same(hand: Hand, redis: Redis) -> None:
    """Its reply was lost. Red when the stored result is compared with the one that was sent."""
    claim = await hand.take()
    await write(hand, claim, "One")
    before = await event_ids(redis, claim.keys)
    history = history_of([started(1), chunk(1, 1, "One")])
    record = await hand.complete(claim, "One", Cursor(1, 2), history=history)
    stored = await redis.get(claim.keys.result)
    assert await hand.complete(claim, "One", Cursor(1, 2), history=history) == record
    assert await redis.get(claim.keys.result) == stored
    kept = decode_result(stored).h
    assert kept is not UNSET
    assert [ev.decode(raw).id for raw in kept.earlier] == before[:1]


async def test_the_end_of_another_attempt_changes_nothing(hand: Hand, redis: Redis) -> None:
    claim = await hand.take()
    await write(hand, claim, "One")
    again = await next_attempt(hand, claim, 2)
    await write(hand, again, "Uno")
    log = await read_log(redis, claim.keys)
    history = history_of([started(1), chunk(1, 1, "One")])
    with pytest.raises(AssertionError):
        await hand.complete(claim, "One", Cursor(1, 2), history=history)
    assert await read_log(redis, claim.keys) == log
    assert not await redis.exists(claim.keys.result)


async def test_a_key_of_another_type_refuses_the_end(hand: Hand, redis: Redis) -> None:
    claim = await hand.take()
    await redis.delete(claim.keys.events)
    await redis.set(claim.keys.events, "no log", ex=60)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await hand.complete(claim, "", Cursor(1, 1), history=history_of([started(1)]))
    assert not await redis.exists(claim.keys.result)


async def test_a_log_that_was_lost_leaves_the_attempt_in_the_history(
    hand: Hand, redis: Redis, read: StartReader
) -> None:
    claim = await hand.take()
    await write(hand, claim, "One ", "two")
    history = history_of([started(1), chunk(1, 1, "One "), chunk(1, 2, "two")])
    await redis.delete(claim.keys.events)
    await hand.complete(claim, "One two", Cursor(1, 3), history=history)
    reader = read(claim.keys)
    await reader.end()
    assert reader.ids == ["1-0", "1-1", "1-2", "1-3"]


async def test_only_a_job_whose_producer_reads_histories_may_have_one(
    client: Client, redis: Redis
) -> None:
    """An older producer may be an older reader, too."""
    job = await client.enqueue("hello")
    record = decode_job(await redis.get(JobKeys.parse(job.id).job))
    assert record.h == 1
